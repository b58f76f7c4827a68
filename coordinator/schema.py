"""Opening the ledger's file: durability, integrity, and the schema brought to the version this code knows."""

from __future__ import annotations

import sqlite3
import time
from importlib import resources
from pathlib import Path

from wanspec_p2p.databases import check_sqlite
from wanspec_p2p.errors import ConfigError

__all__ = ["migrations", "open_database"]

BUSY_MILLISECONDS = 5000
"""How long one process waits for another's transaction; `wanspec coordinator token` runs beside the coordinator."""
RETRY_MILLISECONDS = 20


def migrations() -> list[str]:
    """The SQL that takes version n to n + 1, at index n."""
    files = sorted(
        (entry for entry in resources.files("coordinator.migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return [entry.read_text(encoding="utf-8") for entry in files]


def open_database(path: Path, steps: list[str] | None = None) -> sqlite3.Connection:
    """Open or create the ledger at `path`, durable and at the newest schema.

    WAL with synchronous=FULL: a commit is on disk before it returns (https://www.sqlite.org/pragma.html#pragma_synchronous).

    Raises:
        ConfigError: the file cannot be opened, is damaged, or was written by a newer version, or SQLite is too old; one
            line says what to do.
    """
    check_sqlite()
    steps = migrations() if steps is None else steps
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the ledger {path} cannot be opened: {error}") from error
    try:
        _write_ahead(database)
        database.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        database.execute("PRAGMA synchronous = FULL")
        _check_intact(database, path)
        _migrate(database, path, steps)
    except sqlite3.DatabaseError as error:
        database.close()
        raise _unreadable(path, error) from error
    except ConfigError:
        database.close()
        raise
    return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """WAL. Where another process is about to make the same change, SQLite does not wait for it, whatever the timeout
    says (https://www.sqlite.org/c3ref/busy_handler.html: it might deadlock), so we do, and it is not to."""
    database.execute("PRAGMA busy_timeout = 0")
    for left in reversed(range(BUSY_MILLISECONDS // RETRY_MILLISECONDS)):
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not left:  # whatever kind of it
                raise
            time.sleep(RETRY_MILLISECONDS / 1000.0)
        else:
            return


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> ConfigError:
    words = " ".join(str(error).split())  # SQLite's own may have several lines
    if isinstance(error, sqlite3.OperationalError):  # locked, read-only, disk full: nothing is wrong with its content
        return ConfigError(f"the ledger {path} cannot be used: {words}")
    return ConfigError(f"the ledger {path} is damaged ({words}): restore a copy, or move it away to start an empty one")


def _check_intact(database: sqlite3.Connection, path: Path) -> None:
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _unreadable(path, sqlite3.DatabaseError(verdict))


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _migrate(database: sqlite3.Connection, path: Path, steps: list[str]) -> None:
    if _version(database) > len(steps):
        raise ConfigError(
            f"the ledger {path} was written by a newer version (schema {_version(database)}, this one knows "
            f"{len(steps)}): update wanspec-p2p"
        )
    while _version(database) < len(steps):
        database.execute("BEGIN IMMEDIATE")
        try:
            version = _version(database)  # another process may have been faster
            if version < len(steps):
                for statement in _statements(steps[version]):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {version + 1}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk has ended it already, and is what must be told
                database.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """`executescript` commits behind our back, which would tear a step in two; so the script is taken apart."""
    statements, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
