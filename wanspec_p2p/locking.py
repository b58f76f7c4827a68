"""One service a data directory: two coordinators would each believe to be the only one that gives out leases, and two
nodes or targets of one key would throw each other out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from wanspec_p2p.errors import ConfigError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path, service: str) -> Iterator[None]:
    """Hold the lock file while the body runs. The system lets go of it when the process ends, however it ends.

    Args:
        service: what whoever holds it is called.

    Raises:
        ConfigError: another process holds it, or the disk is full.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        if not _lock(descriptor):
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


if sys.platform == "win32":  # best effort there
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
