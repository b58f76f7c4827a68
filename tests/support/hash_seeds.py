"""Runs of one program under several values of PYTHONHASHSEED: whatever goes by the order of a set shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["printed_under"]

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 100


def printed_under(program: str, *hash_seeds: str) -> list[bytes]:
    """What `program` writes to its standard output, once for each hash seed.

    Raises:
        CalledProcessError: it failed.
    """
    return [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=True,
        ).stdout
        for seed in hash_seeds
    ]
