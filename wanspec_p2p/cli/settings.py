"""From flags, variables and wanspec.toml to the frozen settings of a service or a submitter."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from wanspec_p2p.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from wanspec_p2p.cli.output import Progress
    from wanspec_p2p.client import AsyncClient, Client
    from wanspec_p2p.models.catalog import Catalog

__all__ = [
    "ApiKey",
    "CoordinatorUrl",
    "DataDir",
    "Fingerprint",
    "ShowConfig",
    "Submitter",
    "model_cache",
    "prepare_model",
    "service_settings",
    "submitter",
]

Settings = TypeVar("Settings")

DataDir: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", help="Keys and state; one directory for each service.", file_okay=False)
]
ShowConfig: TypeAlias = Annotated[
    bool, typer.Option("--show-config", help="Print every setting and where it came from, and do nothing.")
]
CoordinatorUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--coordinator", envvar="WANSPEC_COORDINATOR", help="Address, like https://host:port.", metavar="URL"),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option("--api-key", envvar="WANSPEC_API_KEY", help="Better in the variable: flags can be seen by others."),
]
Fingerprint: TypeAlias = Annotated[
    str | None,
    typer.Option("--fingerprint", envvar="WANSPEC_FINGERPRINT", help="SHA-256 of the coordinator's own certificate."),
]


def service_settings(kind: type[Settings], section: str, flags: Mapping[str, object]) -> Settings:
    """Settings of one service: its defaults, `[section]` of wanspec.toml, `WANSPEC_<SECTION>_…`, then flags.

    Flags that are no settings, like `--json`, are left alone. With `--show-config` the settings are printed instead,
    and the command ends.
    """
    from wanspec_p2p.config import CONFIG_FILE, Paths, Sourced, load_sourced

    paths, origins = Paths.from_environment(os.environ), Paths.origins(os.environ)
    file = paths.config / CONFIG_FILE
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # Settings is a dataclass
    edge: dict[str, object] = {
        "data_dir": Sourced(paths.data / section, origins["data"]),
        "cache_dir": Sourced(paths.cache, origins["cache"]),
    }
    settings, sourced = load_sourced(
        kind,
        section,
        file=file,
        environ=os.environ,
        flags={name: value for name, value in flags.items() if name in known and value not in ([], ())},
        defaults={name: value for name, value in edge.items() if name in known},
    )
    if flags.get("show_config"):
        from wanspec_p2p.cli.shown_settings import show

        show(kind, section, sourced, json=bool(flags.get("json")))
        raise typer.Exit(ExitCode.OK)
    return settings


def model_cache(progress: Progress | None = None) -> Catalog:
    from wanspec_p2p.config import Paths
    from wanspec_p2p.models.catalog import Catalog

    return Catalog(Paths.from_environment(os.environ).cache, progress=progress)


def prepare_model(name: str, cache: Path, *, bars: bool = True) -> None:
    """Fetch and convert a catalog's model with bars on the screen, before a service starts to log."""
    from wanspec_p2p.cli.output import progress_bars
    from wanspec_p2p.models.catalog import Catalog
    from wanspec_p2p.models.loading import needed_files

    name = needed_files(name)
    with progress_bars() if bars else contextlib.nullcontext() as progress:
        catalog = Catalog(cache, progress)
        if any(entry.name == name and not entry.ready for entry in catalog.entries()):
            catalog.path(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """How to reach a coordinator as a submitter: `[submitter]` of wanspec.toml."""

    coordinator: str | None = None
    api_key: str | None = None
    fingerprint: str | None = None

    @property
    def url(self) -> str:
        if self.coordinator is None:
            raise ConfigError(
                "no coordinator is named, and none has run here: give --coordinator URL or set WANSPEC_COORDINATOR"
            )
        return self.coordinator

    def client(self) -> Client:
        from wanspec_p2p.client import Client

        return Client(self.url, api_key=self.api_key, fingerprint=self.fingerprint)

    def async_client(self) -> AsyncClient:
        from wanspec_p2p.client import AsyncClient

        return AsyncClient(self.url, api_key=self.api_key, fingerprint=self.fingerprint)


def submitter(coordinator: str | None, api_key: str | None, fingerprint: str | None) -> Submitter:
    """From flags and variables, then `[submitter]` of wanspec.toml, then the coordinator that runs on this machine."""
    from wanspec_p2p.config import CONFIG_FILE, Paths, load_settings

    paths = Paths.from_environment(os.environ)
    flags: dict[str, object] = {"coordinator": coordinator, "api_key": api_key, "fingerprint": fingerprint}
    # typer has read the variables already.
    found = load_settings(Submitter, "submitter", file=paths.config / CONFIG_FILE, environ={}, flags=flags)
    return found if found.coordinator is not None else dataclasses.replace(found, coordinator=_local())


def _local() -> str | None:
    """Where the coordinator of this user is, or was last, reached; its data directory is that of its own settings."""
    from coordinator import addresses
    from coordinator.settings import CoordinatorSettings

    known = addresses.load(service_settings(CoordinatorSettings, "coordinator", {}))
    return None if known is None else addresses.asked_here(known)
