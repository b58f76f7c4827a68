"""What was measured, in one SQLite file: each measurement is there as soon as it was made, whatever happens next.

WAL with synchronous=NORMAL: a commit survives the end of the process, however that comes, and waits for no disk; a
power cut may cost the last seconds, never the file (https://www.sqlite.org/pragma.html#pragma_synchronous). A wait for
the disk would show in the very times that are measured.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.databases import check_sqlite
from wanspec_p2p.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["TIMEOUT", "Locked", "Measurement", "Series"]

APPLICATION = 0x57535042
"""SQLite's application_id of our files ("WSPB")."""
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE endpoints (
    name TEXT PRIMARY KEY, region TEXT NOT NULL, base_url TEXT NOT NULL, model TEXT NOT NULL, synthetic INTEGER NOT NULL
) STRICT;
CREATE TABLE measurements (
    endpoint TEXT NOT NULL REFERENCES endpoints, at REAL NOT NULL, first_token REAL, per_token REAL,
    tokens INTEGER NOT NULL, failure TEXT
) STRICT;
CREATE INDEX measurements_at ON measurements (at);
"""
ASKED = "CREATE TABLE IF NOT EXISTS asked (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
"""What every answer was asked for with; older series have no such table, and older versions leave it alone."""
SHORT = 60
"""Letters of a value that a line repeats."""
LATEST = 253_402_300_799.0
"""The last second that a calendar has, in seconds since the Unix epoch."""
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Primary result codes (https://www.sqlite.org/rescode.html) of a file that another connection has locked."""
TIMEOUT = "timeout"
"""The failure of an answer that took longer than it had."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer of one endpoint, or why there was none.

    Attributes:
        at: when it was asked for, in seconds since the Unix epoch.
        first_token: seconds from then to the first token, opening the connection included; where none came in time
            (TIMEOUT), those it had. Older series say nothing there.
        per_token: seconds from each token to the next, in the mean; None where there were no two.
        failure: a word or two, never the endpoint's own; None where the answer was whole.
    """

    endpoint: str
    at: float
    first_token: float | None = None
    per_token: float | None = None
    tokens: int = 0
    failure: str | None = None


class Locked(ConfigError):
    """Another program has the file locked: the same may work later."""


class Series:
    """An open file; use it in `with`, in one thread at a time.

    Args:
        patience: seconds that one use of the file waits for another program that has it locked.

    Raises:
        ConfigError: the file is not there (unless `create`), is something else, is damaged, or cannot be written; or
            SQLite is too old.
        Locked: another program has it locked for longer than `patience`.
    """

    def __init__(self, path: Path, *, create: bool = False, patience: float = 5.0) -> None:
        self.path = path
        check_sqlite()
        if not create and not path.is_file():
            raise ConfigError(f"there is no series {path}: `wanspec probe run` makes one")
        with self._explained():
            self._database = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._open(create)
        except ConfigError:
            self._database.close()
            raise

    def _open(self, create: bool) -> None:
        database = self._database
        (objects,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if objects == 0 and create:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(  # as one transaction: a file is a series or empty
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise ConfigError(f"{self.path} is not a series of measurements: name another file")
        if version != SCHEMA_VERSION:
            raise ConfigError(f"{self.path} was written by a newer version: update wanspec-p2p")
        database.execute("PRAGMA synchronous = NORMAL")

    def enrol(self, endpoints: Sequence[ProbedEndpoint]) -> None:
        """Note whom the measurements are of. Raises ConfigError for one that was another under the same name."""
        with self._explained():
            known = {row[0]: row[1:] for row in self._database.execute("SELECT * FROM endpoints")}
            for endpoint in endpoints:
                row = (endpoint.region, endpoint.base_url, endpoint.model, int(endpoint.synthetic))
                if known.get(endpoint.name, row) != row:
                    raise ConfigError(
                        f"endpoint {endpoint.name!r} was another when {self.path} was begun: give it another name, or "
                        "name another --out"
                    )
            self._database.executemany(
                "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(e.name, e.region, e.base_url, e.model, int(e.synthetic)) for e in endpoints],
            )

    def settle(self, plan: ProbePlan) -> None:
        """Note what every endpoint is asked. Raises ConfigError for a plan that asks for something else than the one
        whose measurements are here: the times would not be alike.
        """
        asked = {key: msgspec.json.encode(getattr(plan, key)).decode() for key in ("prompt", "max_tokens", "timeout")}
        with self._explained():
            self._database.execute(ASKED)
            if self.begun() is None:
                self._database.execute("DELETE FROM asked")
            for key, value in self._database.execute("SELECT key, value FROM asked").fetchall():
                if asked.get(key, value) != value:
                    was = f" ({value})" if len(value) <= SHORT else ""
                    raise ConfigError(
                        f"{key} was another{was} when {self.path} was begun: times would not be alike; set it back, "
                        "or name another --out"
                    )
            self._database.executemany("INSERT INTO asked VALUES (?, ?) ON CONFLICT DO NOTHING", list(asked.items()))

    def add(self, found: Measurement) -> None:
        row = (found.endpoint, found.at, found.first_token, found.per_token, found.tokens, found.failure)
        with self._explained():
            self._database.execute("INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?)", row)

    def endpoints(self) -> list[ProbedEndpoint]:
        with self._explained():
            rows = self._database.execute("SELECT * FROM endpoints ORDER BY rowid").fetchall()
        return [self._endpoint(*row) for row in rows]

    def _endpoint(self, name: str, region: str, base_url: str, model: str, synthetic: int) -> ProbedEndpoint:
        fields = {"name": name, "region": region, "base_url": base_url, "model": model, "synthetic": bool(synthetic)}
        try:
            found = msgspec.convert(fields, ProbedEndpoint)
        except msgspec.ValidationError as error:
            raise self._damaged(f"an endpoint has a {error}") from error
        if not (name.isprintable() and region.isprintable()):
            raise self._damaged("the name of an endpoint or of its region cannot be printed")
        return found

    def measurements(self) -> Iterator[Measurement]:
        """All, the oldest first. Whoever reads them before `endpoints` knows all endpoints that they are of."""
        with self._explained():
            for known, *row in self._database.execute(
                "SELECT e.name IS NOT NULL, m.* FROM measurements m LEFT JOIN endpoints e ON e.name = m.endpoint "
                "ORDER BY m.at, m.rowid"
            ):
                found = Measurement(*row)
                if not known:
                    raise self._damaged("it holds a measurement of an endpoint that it does not know")
                self._check(found.at, LATEST)
                self._check(found.first_token or 0.0)
                self._check(found.per_token or 0.0)
                yield found

    def begun(self) -> float | None:
        """When the first measurement was asked for, in seconds since the Unix epoch."""
        with self._explained():
            first, last = self._database.execute("SELECT min(at), max(at) FROM measurements").fetchone()
        if first is None:
            return None
        self._check(first, LATEST)
        self._check(last, LATEST)
        return float(first)

    def _check(self, seconds: float, most: float = sys.float_info.max) -> None:
        if not 0.0 <= seconds <= most:
            raise self._damaged(f"it holds a time that cannot be, {seconds:g} seconds")

    def _damaged(self, how: str) -> ConfigError:
        return ConfigError(f"{self.path} is damaged: {how}; take a copy of it, or begin another")

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _explained(self) -> _Explained:
        return _Explained(self.path)


@dataclass(frozen=True, slots=True)
class _Explained:
    """SQLite's errors as one line that says what to do."""

    path: Path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: Any) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        words = " ".join(str(error).split())
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            kind = Locked if code in BUSY else ConfigError  # or read-only, full, no such folder
            raise kind(f"{self.path} cannot be used ({words}): mend that and repeat the command") from error
        raise ConfigError(f"{self.path} is not a series of measurements, or damaged ({words})") from error
