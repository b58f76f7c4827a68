"""What `wanspec probe` measures: a TOML file of endpoints. Keys stay in the environment; the file names variables."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links.address import split
from wanspec_p2p.security.tls import is_loopback

__all__ = ["ProbePlan", "ProbedEndpoint", "read_keys", "read_plan"]

MAX_ENDPOINTS = 256
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class ProbedEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible service in one region."""

    name: Name
    region: Name
    base_url: Annotated[str, msgspec.Meta(max_length=512)]  # with its /v1
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    api_key_env: str | None = None  # the variable that holds the key; None: none is needed
    synthetic: bool = False  # its delays are made up, and figures say so

    @property
    def loopback(self) -> bool:
        return is_loopback(urlsplit(self.base_url).hostname or "")


class ProbePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; `endpoint` as TOML's `[[endpoint]]` has it."""

    endpoint: Annotated[tuple[ProbedEndpoint, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDPOINTS)]
    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)] = "Count from one to forty in words."
    max_tokens: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 32
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0  # seconds, for one answer from end to end


def read_plan(file: Path) -> ProbePlan:
    """The endpoints of `file`.

    Raises:
        ConfigError: it is missing, not TOML, not a plan, or holds what may be a key. The line names the place, and
            repeats no value that could be secret.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    _refuse_keys(file, document)
    try:
        plan = msgspec.convert(document, ProbePlan)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from error
    names = [endpoint.name for endpoint in plan.endpoint]
    for endpoint in plan.endpoint:
        _check(file, endpoint)
        if names.count(endpoint.name) > 1:
            raise ConfigError(f"{file}: two endpoints are called {endpoint.name!r}: give each a name of its own")
    return plan


def _refuse_keys(file: Path, document: Mapping[str, object]) -> None:
    entries = document.get("endpoint")
    for table in (document, *(entries if isinstance(entries, list) else ())):
        if isinstance(table, dict) and table.keys() & {"api_key", "key", "token"}:
            raise ConfigError(
                f"{file} holds a key: take it out, put it in a variable, and name that variable with api_key_env"
            )


def _check(file: Path, endpoint: ProbedEndpoint) -> None:
    where = f"{file}: endpoint {endpoint.name!r}"
    for field in ("name", "region", "model"):
        if not getattr(endpoint, field).isprintable():
            raise ConfigError(f"{where}: {field} holds characters that cannot be printed")
    if endpoint.api_key_env is not None and not _VARIABLE.fullmatch(endpoint.api_key_env):
        raise ConfigError(f"{where}: api_key_env names a variable; if that is the key itself, take it out of the file")
    try:
        parts, host = split(endpoint.base_url)
    except ValueError:
        host = ""
    odd = " " in endpoint.base_url or not endpoint.base_url.isprintable()
    if not host or odd or parts.scheme not in ("http", "https"):
        raise ConfigError(f"{where}: base_url is not an address; it looks like https://host/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"{where}: base_url may hold no password and no query: it is stored with what is measured")
    if parts.scheme == "http" and not endpoint.loopback:
        raise ConfigError(f"{where}: base_url is plain http to another machine: a key could be read; use https://")


def read_keys(plan: ProbePlan, environ: Mapping[str, str]) -> dict[str, str]:
    """The key of each endpoint that needs one, by the endpoint's name.

    Raises:
        ConfigError: a variable is not set, or holds what cannot be a key. The line names the variable, unless that may
            be a key.
    """
    keys: dict[str, str] = {}
    for endpoint in plan.endpoint:
        if (variable := endpoint.api_key_env) is None:
            continue
        key = environ.get(variable, "").strip()
        if not key:  # what is no variable may be the key itself, and many keys are spelt as a variable could be
            named = variable if variable.isupper() else "the variable that api_key_env names"
            raise ConfigError(f"{named} is not set: endpoint {endpoint.name!r} needs its key there")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(f"{variable} holds something that cannot be a key: spaces, line ends or other signs")
        keys[endpoint.name] = key
    return keys
