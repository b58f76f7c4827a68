"""What a coordinator leaves in its data directory, for tests of what is done beside one or after it."""

from __future__ import annotations

from pathlib import Path

from coordinator.schema import open_database
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.security.identity import Identity

__all__ = ["once_run"]


def once_run(data_dir: Path) -> CoordinatorSettings:
    """The settings, flags left out, of one that has run there; where it was reached is not known."""
    settings = CoordinatorSettings(data_dir=data_dir)
    Identity.load_or_create(settings.identity_file)
    open_database(settings.ledger_file).close()
    return settings
