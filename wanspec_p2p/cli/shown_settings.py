"""`--show-config`: the settings a service would run with, as a TOML table that says where each value came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import msgspec

from wanspec_p2p.cli.output import emit, printable, say
from wanspec_p2p.config import Sourced

__all__ = ["show"]

HIDDEN = "not shown: it is a secret"


def show(kind: type, section: str, sourced: Mapping[str, Sourced], *, json: bool) -> None:
    """Print the settings. Fields that the dataclass keeps out of its `repr` are secrets, and are kept back here too."""
    secret = {field.name for field in dataclasses.fields(kind) if not field.repr}
    if json:
        emit({name: {"value": _shown(name in secret, s.value), "origin": s.origin} for name, s in sourced.items()})
        return
    lines = [_line(name, _shown(name in secret, each.value), name in secret) for name, each in sourced.items()]
    width = max(map(len, lines))
    say(f"[{section}]")
    for line, each in zip(lines, sourced.values(), strict=True):
        say(f"{line:<{width}}  # {printable(each.origin)}")


def _shown(secret: bool, value: object) -> object:
    if value is None:
        return None
    return HIDDEN if secret else msgspec.to_builtins(value, enc_hook=_plain)


def _plain(value: object) -> str:
    assert isinstance(value, Path)
    return str(value)


def _line(name: str, value: object, secret: bool) -> str:
    """TOML has no null: what is not set, or not shown, is a comment. JSON's strings, numbers and lists are TOML's."""
    if value is None:
        return f"# {name} is not set"
    if secret:
        return f"# {name} is {value}"
    return f"{name} = {printable(msgspec.json.encode(value).decode())}"
