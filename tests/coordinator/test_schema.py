from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from coordinator.acceptance import SECONDS_A_DAY as DAY
from coordinator.schema import migrations, open_database
from coordinator.statements import acceptance, fold_receipts, forget_leases, store_receipts, tallies
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId


def version(path: Path) -> int:
    with sqlite3.connect(path) as database:
        (number,) = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return int(number)


def test_an_old_sqlite_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigError, match=r"3\.37 or later is needed: use another Python"):
        open_database(tmp_path / "ledger.sqlite3")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_gets_the_newest_schema_and_durable_settings(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite3"
    database = open_database(path)
    assert version(path) == len(migrations())
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    database.close()


def test_an_older_file_is_brought_up_step_by_step_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    steps = ["CREATE TABLE a (x);\nINSERT INTO a VALUES (1);\n", "ALTER TABLE a ADD COLUMN y DEFAULT 'a;b';\n"]
    open_database(path, steps[:1]).close()
    database = open_database(path, steps)
    assert database.execute("SELECT x, y FROM a").fetchall() == [(1, "a;b")]
    assert version(path) == 2
    database.close()


def test_a_ledger_of_before_acceptance_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    database = open_database(path, migrations()[:1])
    database.execute("INSERT INTO leases VALUES ('jti', 'node', 'target', 'pool', 'model', 1.0)")
    database.execute("INSERT INTO receipts VALUES ('id', 'target', 'node', 'jti', 'session', 4, 3, 2, 1, NULL, 1.0)")
    database.close()
    database = open_database(path)
    assert database.execute("SELECT jti, model, pair FROM leases").fetchall() == [("jti", "model", None)]
    receipts = [Receipt(id, PeerId("node"), "jti", "session", 4, 3, 2, 1, by_depth=((3, 2),)) for id in ("id", "id 2")]
    assert store_receipts(database, PeerId("target"), receipts, 2.0) == [(receipts[1], None)]
    assert acceptance(database, 2.0) == [], "nobody knows the models of a lease of before"
    assert tallies(database)[PeerId("node")].drafted == 8
    database.close()


def test_leases_of_a_ledger_that_forgot_none_are_kept_for_as_long_as_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    database = open_database(path, migrations()[:3])
    for jti, issued in (("held ever since", 1.5), ("later", 20.5)):
        database.execute("INSERT INTO leases VALUES (?, 'node', 'target', 'pool', 'm', ?, NULL)", (jti, issued * DAY))
    counts = (4, 3, 2, 1, None, 30.5 * DAY)
    row = ("id", "target", "node", "held ever since", "session", *counts)
    database.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    database.close()
    database = open_database(path)
    rows = database.execute("SELECT jti, issued, used FROM leases ORDER BY jti").fetchall()
    assert rows == [("held ever since", 1.5 * DAY, 30), ("later", 20.5 * DAY, 30)]
    receipt = Receipt("id 2", PeerId("node"), "held ever since", "session", 4, 3, 2, 1)
    assert store_receipts(database, PeerId("target"), [receipt], 35.5 * DAY) == [(receipt, None)]
    fold_receipts(database, 35.0 * DAY, 10)
    forget_leases(database, 32.0 * DAY - 1, 10)
    assert database.execute("SELECT count(*) FROM leases").fetchone() == (2,)
    forget_leases(database, 32.0 * DAY, 10)
    assert database.execute("SELECT jti, used FROM leases").fetchall() == [("held ever since", 35)]
    assert tallies(database)[PeerId("node")].drafted == 8
    database.close()


def test_an_empty_ledger_that_forgot_no_leases_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    open_database(path, migrations()[:3]).close()
    database = open_database(path)
    forget_leases(database, 100.0 * DAY, 10)
    assert database.execute("SELECT count(*) FROM leases").fetchone() == (0,)
    database.close()


def test_pairs_that_nothing_names_go_with_the_step_that_deletes_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    database = open_database(path, migrations()[:5])
    for number in range(3):
        database.execute("INSERT INTO model_pairs VALUES (?, 'big', 'b', 'small', ?)", (number, str(number)))
    for jti, pair in (("of before", None), ("new", 1)):
        database.execute("INSERT INTO leases VALUES (?, 'n', 't', 'p', 'm', 1.0, ?, 0, 0.0)", (jti, pair))
    database.execute("INSERT INTO acceptance VALUES (0, 2, 1, 1, 1)")
    database.close()
    database = open_database(path)
    assert database.execute("SELECT id FROM model_pairs ORDER BY id").fetchall() == [(1,), (2,)]
    database.close()


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    open_database(path, ["CREATE TABLE a (x);"]).close()
    with pytest.raises(ConfigError, match="cannot be used"):
        open_database(path, ["", "CREATE TABLE b (x);\nCREATE TABLE b (x);\n"])
    assert version(path) == 1
    database = open_database(path, [""])
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    database.close()


def test_a_newer_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    open_database(path, ["CREATE TABLE a (x);", "CREATE TABLE b (x);"]).close()
    with pytest.raises(ConfigError, match=r"schema 2, this one knows 1\): update wanspec-p2p") as error:
        open_database(path, ["CREATE TABLE a (x);"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["garbage", "torn"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.sqlite3"
    open_database(path).close()
    content = path.read_bytes()
    broken = b"not a database " * 512 if damage == "garbage" else content[:4096] + b"\xff" * (len(content) - 4096)
    path.write_bytes(broken)
    with pytest.raises(ConfigError, match="is damaged") as error:
        open_database(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes()[:4096] == broken[:4096]  # left for its owner to look at


def test_a_directory_in_its_place_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened|cannot be used"):
        open_database(tmp_path)


def test_two_that_open_a_new_file_at_once_both_get_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    failures: list[Exception] = []

    def open_it() -> None:
        try:
            open_database(path).close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert version(path) == len(migrations())
