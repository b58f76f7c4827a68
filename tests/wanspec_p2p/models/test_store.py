from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wanspec_p2p.errors import DigestMismatch, ModelError
from wanspec_p2p.models.digests import read_manifest
from wanspec_p2p.models.store import ModelStore

MAKER = """
import sys
from pathlib import Path
from wanspec_p2p.models.store import ModelStore

def make(out):
    (out / "half.safetensors").write_bytes(b"half")
    print("making", flush=True)
    sys.stdin.readline()
    (out / "model.safetensors").write_bytes(b"whole")

store = ModelStore(Path(sys.argv[1]), lambda label, done, total: print(label, flush=True))
print(store.obtain("m", "a test", make)[0], flush=True)
"""


def start_maker(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def quiet(label: str, done: int, total: int) -> None:
    pass


def make(out: Path) -> None:
    (out / "model.safetensors").write_bytes(b"whole")


def refuse(out: Path) -> None:
    raise AssertionError("made twice")


def test_a_model_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, quiet)
    assert not store.ready("m", "a test")
    directory, manifest = store.obtain("m", "a test", make)
    assert store.ready("m", "a test") and manifest.source == "a test"
    assert store.obtain("m", "a test", refuse) == (directory, manifest)


def test_a_model_from_another_source_is_made_again(tmp_path: Path) -> None:
    def better(out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"better")

    store = ModelStore(tmp_path, quiet)
    store.obtain("m", "release 1", make)
    assert not store.ready("m", "release 2")
    directory, manifest = store.obtain("m", "release 2", better)
    assert (directory / "model.safetensors").read_bytes() == b"better" and manifest.source == "release 2"
    assert store.obtain("m", "release 2", refuse) == (directory, manifest)


def test_a_model_that_cannot_be_made_again_stays_what_it_was(tmp_path: Path) -> None:
    def full(out: Path) -> None:
        raise OSError(28, "No space left on device")

    store = ModelStore(tmp_path, quiet)
    directory, manifest = store.obtain("m", "release 1", make)
    with pytest.raises(ModelError, match="could not be stored"):
        store.obtain("m", "release 2", full)
    assert store.obtain("m", "release 1", refuse) == (directory, manifest)


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_bytes(b"half")
        raise ModelError("no")

    def full(out: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="^no$"):
        ModelStore(tmp_path, quiet).obtain("m", "a test", fail)
    with pytest.raises(ModelError, match="could not be stored.*No space left"):
        ModelStore(tmp_path, quiet).obtain("m", "a test", full)
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]


def test_two_processes_at_once_make_one_model(tmp_path: Path) -> None:
    first = start_maker(tmp_path)
    second = None
    try:
        assert line(first) == "making"
        second = start_maker(tmp_path)
        assert line(second) == "wait for another process that prepares m"
        first.communicate("go\n", timeout=30)
        # The second finds the first one's directory and never says "making".
        assert second.communicate(timeout=30)[0].strip() == str(tmp_path / "m")
        assert (first.returncode, second.returncode) == (0, 0)
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_making_leaves_no_lock_and_no_model(tmp_path: Path) -> None:
    process = start_maker(tmp_path)
    assert line(process) == "making"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (tmp_path / "m").exists()
    assert len(list(tmp_path.glob(".m.partial-*"))) == 1
    directory, _ = ModelStore(tmp_path, quiet).obtain("m", "a test", make)
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "model.safetensors"]
    assert list(tmp_path.glob(".m.partial-*")) == []


def test_a_touched_file_is_digested_once_and_a_changed_one_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, quiet)
    directory, before = store.obtain("m", "a test", make)
    os.utime(directory / "model.safetensors", ns=(1, 1))
    _, after = store.obtain("m", "a test", refuse)
    assert after.digest == before.digest and read_manifest(directory) == after
    assert list(after.changed(directory)) == []
    (directory / "model.safetensors").write_bytes(b"WHOLE")
    with pytest.raises(DigestMismatch):
        store.obtain("m", "a test", refuse)


def test_a_directory_without_a_manifest_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"of unknown origin")
    directory, _ = ModelStore(tmp_path, quiet).obtain("m", "a test", make)
    assert (directory / "model.safetensors").read_bytes() == b"whole"
