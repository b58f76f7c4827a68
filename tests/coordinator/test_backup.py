from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator import backup
from coordinator.admin import create_api_key
from coordinator.backup import INDEX, back_up, restore
from coordinator.keys import rotate, succession
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from tests.support.past_coordinators import once_run
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import locked
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate

NOW = 1_800_000_000.0


@pytest.fixture
def whole(settings: CoordinatorSettings) -> CoordinatorSettings:
    """A coordinator that has run, off loopback, and has had its key changed."""
    once_run(settings.data_dir)
    create_api_key(settings, "ada")
    rotate(settings)
    load_or_create_certificate(settings.certificate_dir, "localhost", clock=ManualClock())
    return settings


@pytest.fixture
def elsewhere(tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(data_dir=tmp_path / "elsewhere")


def files(settings: CoordinatorSettings) -> dict[str, bytes]:
    root = settings.data_dir
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_what_is_restored_is_the_same_coordinator(
    whole: CoordinatorSettings, elsewhere: CoordinatorSettings, tmp_path: Path
) -> None:
    contents = back_up(whole, tmp_path / "copy", now=NOW)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert restore(elsewhere, tmp_path / "copy") == contents
    for name in ("identity.pem", "succession.json", "tls/tls-certificate.pem", "tls/tls-key.pem"):
        assert files(elsewhere)[name] == files(whole)[name]
        assert stat.S_IMODE((elsewhere.data_dir / name).stat().st_mode) == 0o600
    identity = Identity.load_or_create(elsewhere.identity_file)
    assert (identity.peer_id, contents.taken) == (contents.coordinator, int(NOW))
    assert len(succession(elsewhere, identity)) == 1
    with pytest.raises(ConfigError, match="there is an API key called 'ada' already"):
        create_api_key(elsewhere, "ada")
    load_or_create_certificate(elsewhere.certificate_dir, "localhost", clock=ManualClock())
    assert sorted(files(elsewhere)) == sorted(
        ["coordinator.lock", "identity.pem", "ledger.sqlite3", "succession.json"]
        + ["tls/tls-certificate.pem", "tls/tls-key.pem"]
    )


async def test_a_copy_is_taken_while_the_coordinator_runs_and_writes(
    settings: CoordinatorSettings, elsewhere: CoordinatorSettings, tmp_path: Path
) -> None:
    Identity.load_or_create(settings.identity_file)
    with locked(settings.lock_file, "coordinator"):
        ledger = SqliteLedger(settings.ledger_file)
        await ledger.add_api_key("before", "wsk-before", now=NOW)  # lies in the write-ahead log
        back_up(settings, tmp_path / "copy", now=NOW)
        await ledger.add_api_key("after", "wsk-after", now=NOW)
        await ledger.close()
    restore(elsewhere, tmp_path / "copy")
    restored = SqliteLedger(elsewhere.ledger_file)
    assert await restored.api_key_name("wsk-before") == "before"
    assert await restored.api_key_name("wsk-after") is None
    await restored.close()


def test_nothing_is_overwritten(whole: CoordinatorSettings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is there already, and is not overwritten"):
        back_up(whole, copy, now=NOW)
    assert copy.read_bytes() == b"precious"
    copy.unlink()
    back_up(whole, copy, now=NOW)
    before = files(whole)
    with pytest.raises(ConfigError, match=r"identity.pem is there already, and is not overwritten"):
        restore(whole, copy)
    assert files(whole) == before


@pytest.mark.parametrize("left", ["ledger.sqlite3", "ledger.sqlite3-wal", "tls/tls-key.pem"])
def test_what_is_left_of_another_coordinator_is_not_mixed_in(
    whole: CoordinatorSettings, elsewhere: CoordinatorSettings, tmp_path: Path, left: str
) -> None:
    back_up(whole, tmp_path / "copy", now=NOW)
    (elsewhere.data_dir / left).parent.mkdir(parents=True)
    (elsewhere.data_dir / left).touch()
    with pytest.raises(ConfigError, match="is there already"):
        restore(elsewhere, tmp_path / "copy")
    assert not elsewhere.identity_file.exists()


def test_a_running_coordinators_directory_is_not_touched(
    whole: CoordinatorSettings, elsewhere: CoordinatorSettings, tmp_path: Path
) -> None:
    back_up(whole, tmp_path / "copy", now=NOW)
    with locked(elsewhere.lock_file, "coordinator"), pytest.raises(ConfigError, match="another coordinator"):
        restore(elsewhere, tmp_path / "copy")


def test_there_has_to_be_something_to_copy(settings: CoordinatorSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no identity.pem in"):
        back_up(settings, tmp_path / "copy", now=NOW)
    assert not (tmp_path / "copy").exists()


# Copies that are none -------------------------------------------------------------------------------------------------


def rewritten(copy: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with tarfile.open(copy) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(copy, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def index(members: dict[str, bytes], **changes: Any) -> None:
    members[INDEX] = msgspec.json.encode(msgspec.json.decode(members[INDEX]) | changes)


def _stranger(members: dict[str, bytes]) -> None:
    other = Identity.generate()
    index(members, coordinator=other.peer_id)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update({"identity.pem": b"x"}), "is damaged: identity.pem is not what it was"),
        (lambda m: m.update({"ledger.sqlite3": m["ledger.sqlite3"][:-100]}), "is damaged: ledger.sqlite3"),
        (lambda m: m.pop("ledger.sqlite3"), "is no backup of a coordinator, or is damaged"),
        (lambda m: m.pop(INDEX), "is no backup of a coordinator, or is damaged"),
        (lambda m: m.update({INDEX: b"{}"}), "is no backup of a coordinator that this release can read"),
        (lambda m: index(m, format=2), "has format 2, and this release reads 1"),
        (lambda m: index(m, files={}), "does not hold what a coordinator consists of"),
        (
            lambda m: index(m, files=msgspec.json.decode(m[INDEX])["files"] | {"../../evil": "0" * 64}),
            "does not hold what a coordinator consists of",
        ),
        (_stranger, "the key in .* is not that of"),
    ],
)
def test_a_copy_that_was_changed_is_refused_before_anything_is_written(
    whole: CoordinatorSettings,
    elsewhere: CoordinatorSettings,
    tmp_path: Path,
    change: Callable[[dict[str, bytes]], None],
    match: str,
) -> None:
    copy = tmp_path / "copy"
    back_up(whole, copy, now=NOW)
    rewritten(copy, change)
    with pytest.raises(ConfigError, match=match) as error:
        restore(elsewhere, copy)
    assert "\n" not in str(error.value)
    assert sorted(files(elsewhere)) == ["coordinator.lock"]


@pytest.mark.parametrize("kept", [0, 100, 1500, 0.5, 0.7])
def test_a_copy_that_was_cut_short_is_refused(
    whole: CoordinatorSettings, elsewhere: CoordinatorSettings, tmp_path: Path, kept: float
) -> None:
    copy = tmp_path / "copy"
    back_up(whole, copy, now=NOW)
    content = copy.read_bytes()
    copy.write_bytes(content[: int(kept if kept > 1 or not kept else kept * len(content))])
    with pytest.raises(ConfigError, match="use another copy"):
        restore(elsewhere, copy)
    assert sorted(files(elsewhere)) == ["coordinator.lock"]


def test_a_file_that_is_not_there_is_one_line(elsewhere: CoordinatorSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be restored: .*No such file"):
        restore(elsewhere, tmp_path / "nothing")


def test_the_room_it_needs_is_beside_the_copy(
    whole: CoordinatorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []

    def copied(source: Path, target: Path) -> None:
        places.append(target.parent.parent)
        shutil.copy(source, target)

    monkeypatch.setattr(backup, "_copy_database", copied)
    (tmp_path / "safe").mkdir()
    back_up(whole, tmp_path / "safe" / "copy", now=NOW)
    assert places == [tmp_path / "safe"]
    assert [path.name for path in (tmp_path / "safe").iterdir()] == ["copy"]


def test_a_full_disk_leaves_no_half_copy(
    whole: CoordinatorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="the copy could not be made: .*No space left"):
        back_up(whole, tmp_path / "copy", now=NOW)
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.rglob(".backup-*"))


def test_a_damaged_ledger_is_not_copied_as_if_it_were_sound(whole: CoordinatorSettings, tmp_path: Path) -> None:
    database = sqlite3.connect(whole.ledger_file)
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    content = bytearray(whole.ledger_file.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    whole.ledger_file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged|malformed"):
        back_up(whole, tmp_path / "copy", now=NOW)
    assert not (tmp_path / "copy").exists()
