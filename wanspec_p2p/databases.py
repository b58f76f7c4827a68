"""What every database of ours needs of the SQLite that Python came with."""

from __future__ import annotations

import sqlite3

from wanspec_p2p.errors import ConfigError

__all__ = ["SQLITE", "check_sqlite"]

SQLITE = (3, 37, 0)
"""The first with STRICT tables (https://www.sqlite.org/stricttables.html)."""


def check_sqlite() -> None:
    """Raises ConfigError where it is too old, as with the Python of some enterprise distributions."""
    if sqlite3.sqlite_version_info < SQLITE:
        wanted = ".".join(map(str, SQLITE[:2]))
        raise ConfigError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and {wanted} or later is needed: use another Python, "
            "such as one of python.org, conda or uv"
        )
