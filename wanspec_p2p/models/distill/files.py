"""What a user is told where a result cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.files import write_whole

__all__ = ["replace_file"]


def replace_file(
    path: Path, content: bytes, *, again: str = "repeat the command; with --resume it goes on where it stopped"
) -> None:
    """As `write_whole`, with one line that says what to do.

    Args:
        again: what the user may do once there is room.

    Raises:
        ConfigError: the disk is full, or not to be written to.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        what = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise ConfigError(f"{path} could not be written ({error.strerror}): {what} and {again}") from error
