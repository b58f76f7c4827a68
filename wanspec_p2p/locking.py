"""Locks on files. The operating system lets go of them when the process ends that holds them, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wanspec_p2p.errors import ConfigError

__all__ = ["file_lock", "locked"]


@contextlib.contextmanager
def locked(path: Path, service: str) -> Iterator[None]:
    """One service a data directory, or none: two coordinators would each believe to be the only one that gives out
    leases, and two nodes or targets of one key would throw each other out.

    Args:
        service: what whoever holds it is called.

    Raises:
        ConfigError: another process holds it, the disk is full, or its file system has no locks.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        try:
            free = _try_lock(descriptor)
        except OSError as error:
            raise ConfigError(f"{path} cannot be locked: {error.strerror}") from error
        if not free:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else "?"
            raise ConfigError(f"another {service} (process {holder or '?'}) runs on {path.parent}")
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One process at a time, the others wait. The file is made if need be, and never removed: that would race.

    Args:
        on_wait: called once if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if not _try_lock(file.fileno()):
            on_wait()
            _wait_lock(file.fileno())
        yield


if sys.platform == "win32":  # best effort there
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait_lock(descriptor: int) -> None:
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # gives up after ten seconds by itself
            except OSError:
                continue
            return

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
