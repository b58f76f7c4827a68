from __future__ import annotations

import threading
from pathlib import Path

from wanspec_p2p.models.locks import file_lock


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
