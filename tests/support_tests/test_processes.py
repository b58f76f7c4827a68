from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.processes import end

STAY = "print('ready', flush=True); signal.pause()"
DEAF = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAY}"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("program", "by"), [(STAY, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_a_process_is_asked_first_and_killed_if_it_stays(program: str, by: signal.Signals) -> None:
    command = [sys.executable, "-S", "-c", f"import signal; {program}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        end(process, 30.0 if by == signal.SIGTERM else 0.2)
        assert process.returncode == -by
        end(process)  # it has ended already
