from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wanspec_p2p.client.keeping import Keeper
from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import Locked, Measurement, Series
from wanspec_p2p.errors import ConfigError

FOUND = [Measurement("a", float(number), 0.5, 0.02, 8) for number in range(20)]


@pytest.fixture
def series(tmp_path: Path) -> Iterator[Series]:
    with Series(tmp_path / "series", create=True, patience=0.01) as stored:
        stored.enrol([ProbedEndpoint("a", "west", "https://west.example/v1", "big")])
        yield stored


@pytest.fixture
def lock(series: Series) -> Iterator[sqlite3.Connection]:
    """Another program's, that has the file locked; `rollback` lets go."""
    database = sqlite3.connect(series.path, isolation_level=None, check_same_thread=False)
    database.execute("BEGIN IMMEDIATE")
    yield database
    database.close()


def nobody() -> None:
    raise AssertionError("nothing is locked")


def test_all_is_stored_in_order_when_it_ends(series: Series) -> None:
    with Keeper(series, nobody) as keeper:
        for found in FOUND:
            keeper(found)
    assert (list(series.measurements()), keeper.unstored) == (FOUND, 0)


def test_a_lock_is_waited_out_and_holds_nobody_up(series: Series, lock: sqlite3.Connection) -> None:
    with pytest.raises(Locked, match="locked"):
        series.add(FOUND[0])
    told = threading.Semaphore(0)
    with Keeper(series, told.release) as keeper:
        for found in FOUND:
            keeper(found)  # returns, although nothing can be stored
        assert told.acquire(timeout=60)
        assert keeper.unstored == len(FOUND)
        lock.rollback()
    assert not told.acquire(blocking=False)  # told once
    assert (list(series.measurements()), keeper.unstored) == (FOUND, 0)


def test_an_interrupt_loses_nothing(series: Series, lock: sqlite3.Connection) -> None:
    with pytest.raises(KeyboardInterrupt), Keeper(series, lock.rollback) as keeper:
        keeper(FOUND[0])
        raise KeyboardInterrupt
    assert (list(series.measurements()), keeper.unstored) == (FOUND[:1], 0)


def test_a_second_interrupt_gives_up_what_cannot_be_stored(
    series: Series, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, interrupts = threading.Thread.join, [KeyboardInterrupt()]

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if interrupts:
            raise interrupts.pop()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), Keeper(series, lambda: None) as keeper:
        keeper(FOUND[0])
        keeper(FOUND[1])
    assert (list(series.measurements()), keeper.unstored) == ([], 2)


def test_what_cannot_be_written_is_said_at_the_end_or_by_the_next(series: Series) -> None:
    series._database.execute("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match="repeat the command"), Keeper(series, nobody) as keeper:
        keeper(FOUND[0])
        keeper._thread.join(60)
        with pytest.raises(ConfigError, match="repeat the command"):
            keeper(FOUND[1])
    assert keeper.unstored == 1
    with pytest.raises(ConfigError, match="repeat the command"), Keeper(series, nobody) as keeper:
        keeper(FOUND[0])
