from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from wanspec_p2p.errors import UsageError
from wanspec_p2p.security.files import create_once, read_private, write_whole


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    assert create_once(path, b"first", what="key") == b"first"
    assert create_once(path, b"second", what="key") == b"first"
    assert _mode(path) == 0o600
    assert _mode(path.parent) == 0o700
    assert os.listdir(path.parent) == ["secret"]  # no temporary file is left


def test_of_many_that_start_at_once_one_decides(tmp_path: Path) -> None:
    path, barrier = tmp_path / "secret", threading.Barrier(8)
    results: list[bytes] = []

    def start(content: bytes) -> None:
        barrier.wait(timeout=10)
        results.append(create_once(path, content, what="key"))

    threads = [threading.Thread(target=start, args=(b"%d" % i * 4096,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(results) == 8
    assert set(results) == {path.read_bytes()}
    assert os.listdir(tmp_path) == ["secret"]


def test_a_loser_of_the_race_reads_what_the_winner_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"

    def link_too_late(source: str, destination: Path) -> None:
        destination.write_bytes(b"winner")
        destination.chmod(0o600)
        raise FileExistsError

    monkeypatch.setattr("wanspec_p2p.security.files.os.link", link_too_late)
    assert create_once(path, b"loser", what="key") == b"winner"
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"open to others .mode {mode:04o}.: run `chmod 600 "):
        create_once(path, b"y", what="key")


def test_to_read_is_to_make_nothing_and_to_mind_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    assert read_private(path, what="key") is None
    assert not path.parent.exists()
    create_once(path, b"x", what="key")
    assert read_private(path, what="key") == b"x"
    path.chmod(0o640)
    with pytest.raises(UsageError, match="open to others"):
        read_private(path, what="key")
    with pytest.raises(UsageError, match=f"the key {path.parent / 'secret' / 'below'} cannot be used: Not a directory"):
        read_private(path / "below", what="key")


def test_a_directory_in_which_anyone_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shared" / "secret"
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match="anyone may replace the key"):
        create_once(path, b"y", what="key")


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"the key .* cannot be used: .*") as caught:
        create_once(tmp_path / "file" / "secret", b"y", what="key")
    assert "\n" not in str(caught.value)


# write_whole ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path, private: bool) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, b"one", private=private)
    write_whole(path, b"two", private=private)
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]
    assert (_mode(path) == 0o600) is private
    assert (_mode(path.parent) == 0o700) is private


def test_a_secret_is_private_even_where_the_file_was_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o644)
    write_whole(path, b"secret", private=True)
    assert _mode(path) == 0o600


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_renamed_is_on_the_disk_and_so_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (steps.append(name), real(*a))[1])
    write_whole(tmp_path / "file", b"one")
    assert steps == ["fsync", "replace", "fsync"]
