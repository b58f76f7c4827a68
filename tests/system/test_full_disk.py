"""A disk that fills up at one write or another of a coordinator's start: one line that names the file, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wanspec_p2p.cli.processes import wanspec_command, wanspec_environment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX stands for the disk"),
]


@pytest.mark.parametrize(
    ("room", "file"), [(0, "coordinator.lock"), (8, "identity.pem"), (200, "ledger.sqlite3"), (700, "ledger.sqlite3")]
)
def test_it_is_said_in_one_line(room: int, file: str, tmp_path: Path) -> None:
    """No file may grow beyond `room` bytes; a write that would gives an error as a full disk does."""
    limited = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    arguments = wanspec_command("coordinator", "run", "--port", "0", "--data-dir", str(tmp_path / "data"))[4:]
    program = f"{limited}import sys; sys.argv[1:] = {arguments!r}; runpy.run_module('wanspec_p2p.cli', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-B", "-P", "-c", program],
        env=wanspec_environment({}, tmp_path / "config"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert file in done.stderr
    assert "cannot be" in done.stderr
    assert "rollback" not in done.stderr
