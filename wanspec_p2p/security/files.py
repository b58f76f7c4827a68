"""Secrets on disk: written whole or not at all, for their owner's eyes alone, and once however many start at once."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from wanspec_p2p.errors import UsageError

__all__ = ["create_once"]


def create_once(path: Path, content: bytes, *, what: str) -> bytes:
    """Return what the file holds; create it with `content` (0600, in a 0700 directory) where there is none.

    The content is written and synced under another name and then linked to its own, so that no reader sees half a
    file, and of several processes that start at once exactly one decides what it holds.

    Args:
        what: what the file is, for the error line ("identity key").

    Raises:
        UsageError: the file or its directory is open to others, or cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _publish(path, content)
        _refuse_if_open_to_others(path, what)
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be used: {error.strerror or error}") from error


def _publish(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, does not replace the file of whoever came first
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        os.unlink(temporary)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_if_open_to_others(path: Path, what: str) -> None:
    if os.name == "nt":  # access lists, not mode bits
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UsageError(f"the {what} {path} is open to others (mode {mode:04o}): run `chmod 600 {path}`")
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UsageError(
            f"anyone may replace the {what}: {path.parent} has mode {mode:04o}; run `chmod o-w {path.parent}`"
        )
