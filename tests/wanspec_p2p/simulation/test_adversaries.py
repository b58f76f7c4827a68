from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("line", "fault"),
    [("nonsense", "this is not a join token"), ("wanspec-join-1.nonsense", "the join token is cut off or damaged")],
)
def test_the_join_token_is_read_from_stdin(tmp_path: Path, line: str, fault: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "wanspec_p2p.simulation.adversaries", "liar"),
            *("--data-dir", str(tmp_path / "liar"), "--cache-dir", str(tmp_path / "cache")),
        ],
        input=f"{line}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"adversary: {fault}" in done.stderr and line not in done.stderr
