"""Ctrl-C and SIGTERM at any moment of a service's life: it ends soon, in at most one line, and leaves no process."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest

from wanspec_p2p.cli.processes import wanspec_command, wanspec_environment

pytestmark = pytest.mark.system

MOMENTS = 6
"""Of each signal, spread over the start and a little beyond it."""
ENDS = {0, 130, -signal.SIGINT, -signal.SIGTERM}
"""In order, interrupted, or before Python itself was ready to be told."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_ends_whenever_it_is_told_to(number: signal.Signals, tmp_path: Path) -> None:
    rng = random.Random(int(number))
    environment = wanspec_environment({}, tmp_path / "config")
    for moment in range(MOMENTS):
        command = wanspec_command("coordinator", "run", "--port", "0", "--data-dir", str(tmp_path / "data"))
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        seconds = (moment + rng.random()) * 2.5 / MOMENTS
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode in ENDS, (seconds, process.returncode, err)
        # A traceback from before our first line is Python's own.
        assert "Traceback" not in err or "wanspec_p2p/cli/entry.py" not in err, (seconds, err)
        assert out == ""


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    command = wanspec_command("coordinator", "run", "--port", "0", "--data-dir", str(tmp_path / "data"), "--json")
    process = subprocess.Popen(
        command,
        env=wanspec_environment({}, tmp_path / "config"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert '"ready"' in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err
