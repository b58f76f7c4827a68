"""Files on disk: written whole or not at all whoever is killed and whenever; secrets for their owner's eyes alone."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from wanspec_p2p.errors import UsageError

__all__ = ["create_once", "read_private", "write_whole"]


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
        return _content(path, what)
    except OSError as error:
        raise _unusable(path, what, error) from error


def read_private(path: Path, *, what: str) -> bytes | None:
    """What a file that `create_once` made holds; None where there is none. Makes nothing; raises as `create_once`."""
    try:
        return _content(path, what)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, what, error) from error


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Put `content` at `path` in one step, as others see it; what was there stays until then. Makes its directory.

    A crash at any moment, of the power too, leaves the old file or the new one, though perhaps a hidden one beside it.

    Args:
        private: for its owner alone (0600, in a 0700 directory where that is new); else as the umask has it.

    Raises:
        OSError: the disk is full, or not to be written to; `path` is as it was.
    """
    path.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    temporary = _temporary(path, content, mode=0o600 if private else 0o666)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _publish(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content, mode=0o600)
    try:
        os.link(temporary, path)  # unlike rename, does not replace the file of whoever came first
    except FileExistsError:
        return
    finally:
        temporary.unlink()
    _sync_directory(path.parent)


def _temporary(path: Path, content: bytes, *, mode: int) -> Path:
    """The content, on the disk, beside `path` and under a name of its own: two that write at once do not meet."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(path: Path, what: str) -> bytes:
    _refuse_if_open_to_others(path, what)
    return path.read_bytes()


def _unusable(path: Path, what: str, error: OSError) -> UsageError:
    return UsageError(f"the {what} {path} cannot be used: {error.strerror or error}")


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
