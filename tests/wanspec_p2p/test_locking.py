from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import file_lock, locked


def test_the_lock_is_held_once_and_can_be_taken_again_after(tmp_path: Path) -> None:
    path = tmp_path / "data" / "coordinator.lock"
    with locked(path, "coordinator"):
        with (
            pytest.raises(ConfigError, match=rf"another coordinator \(process {os.getpid()}\) runs on {path.parent}"),
            locked(path, "coordinator"),
        ):
            pass
    with locked(path, "coordinator"):
        assert path.read_text().strip().isdigit()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), locked(tmp_path / "file" / "lock", "node"):
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("wanspec_p2p.locking._try_lock", refuse)
    with pytest.raises(ConfigError, match="cannot be locked: No locks available"), locked(tmp_path / "lock", "node"):
        pass


def test_a_second_holder_is_told_and_waits(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "lock"
    order: list[str] = []
    told = threading.Event()

    def second() -> None:
        with file_lock(path, told.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with file_lock(path):
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    with file_lock(tmp_path / "lock", lambda: told.append("waiting")):
        pass
    with file_lock(tmp_path / "lock", lambda: told.append("waiting")):
        pass
    assert told == []
