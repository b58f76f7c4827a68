"""The part of `wanspec doctor` that reads settings: will they do, and where do services keep things by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.cli.settings import service_settings, submitter
from wanspec_p2p.config import CONFIG_FILE, Paths
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Role

__all__ = ["Places", "read_settings"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the services of this user keep things."""

    homes: Mapping[Role, Path]  # the data directory of each
    data: tuple[Path, ...]  # the folder that holds data directories, then such as lie elsewhere
    caches: tuple[Path, ...]


def read_settings(paths: Paths) -> tuple[Places, list[Finding]]:
    """All of wanspec.toml and of the variables, as every service and a submitter would read them.

    A service whose settings will not do is looked for where it is by default.
    """
    from coordinator.settings import CoordinatorSettings
    from node.settings import NodeSettings
    from wanspec_p2p.target.settings import TargetSettings

    homes, caches, wrong = {role: paths.data / role for role in Role}, [paths.cache], []
    kinds: dict[Role, type[CoordinatorSettings | NodeSettings | TargetSettings]] = {
        Role.COORDINATOR: CoordinatorSettings,
        Role.NODE: NodeSettings,
        Role.TARGET: TargetSettings,
    }
    for role, kind in kinds.items():
        try:
            settings = service_settings(kind, role, {})
        except ConfigError as error:
            wrong.append(str(error))
            continue
        homes[role] = settings.data_dir.absolute()
        if not isinstance(settings, CoordinatorSettings):
            caches.append(settings.cache_dir.absolute())
    try:
        submitter(None, None, None)
    except ConfigError as error:
        wrong.append(str(error))
    elsewhere = (home for home in homes.values() if home.parent != paths.data)
    places = Places(homes, tuple(dict.fromkeys((paths.data, *elsewhere))), tuple(dict.fromkeys(caches)))
    return places, [Finding("settings", False, line) for line in dict.fromkeys(wrong)] or [_valid(paths.config)]


def _valid(config: Path) -> Finding:
    file = config / CONFIG_FILE
    return Finding("settings", True, f"{file} is valid" if file.exists() else f"there is no {file}, and need not be")
