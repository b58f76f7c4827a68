"""Processes that a test starts, and has to end."""

from __future__ import annotations

import subprocess

__all__ = ["end"]

STOP_SECONDS = 10.0


def end(process: subprocess.Popen[bytes], patience: float = STOP_SECONDS) -> None:
    """By its own pid: SIGTERM, then SIGKILL to what is still there after `patience` seconds."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
