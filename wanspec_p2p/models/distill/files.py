"""Files that are whole or not there: whoever is killed, and whenever."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from wanspec_p2p.errors import ConfigError

__all__ = ["replace_file"]


def replace_file(
    path: Path, content: bytes, *, again: str = "repeat the command; with --resume it goes on where it stopped"
) -> None:
    """Put `content` at `path`, in one step as others see it.

    Args:
        again: what the user may do once there is room.

    Raises:
        ConfigError: the disk is full, or not to be written to.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        what = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise ConfigError(f"{path} could not be written ({error.strerror}): {what} and {again}") from error
