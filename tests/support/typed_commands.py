"""Commands as a reader types them into one terminal after the other: real shells, in a home of their own.

What runs until Ctrl-C is started, waited for until it says that it is ready, and ended with Ctrl-C. Variables that one
command exports hold for the next.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Terminals", "environment_of"]

SECONDS = 100.0
"""The longest that a command may take, or a service to be ready."""
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.05
INTERRUPTED = {0, 128 + signal.SIGINT, -signal.SIGINT}
ROOT = Path(__file__).parents[2]
KEEP = """
status=$?
export -p > "$STATE"
exit $status
"""


def environment_of(directory: Path, program: str, **variables: str) -> dict[str, str]:
    """Of a reader whose home is `directory`/home: nobody's settings, and a `wanspec` that is `python -m PROGRAM`.

    The same `wanspec` lies in `.venv/bin` of `directory`, where `make setup` puts it for those who have a checkout.
    """
    home, programs = directory / "home", directory / ".venv" / "bin"
    for place in (home, programs, directory / "tmp"):
        place.mkdir(parents=True)
    wanspec = programs / "wanspec"
    wanspec.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m {program} "$@"\n')
    wanspec.chmod(0o755)
    (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    return {
        "HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(directory / "tmp"),
        "STATE": str(directory / "tmp" / "state"),
        "TORCHINDUCTOR_CACHE_DIR": str(directory / "tmp" / "torchinductor"),
        **variables,
    }


@dataclass(frozen=True, slots=True)
class Running:
    text: str
    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Terminals:
    """All that was started in them has ended when the `with` block is left.

    Args:
        directory: where commands are typed.
        environment: of every command; `STATE` names the file that keeps what they export.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._running: dict[str, Running] = {}

    def run(self, text: str, *, status: int = 0) -> str:
        """What a command prints, on both its outputs.

        Raises:
            AssertionError: it ended with another status than `status`, or not in time.
        """
        script = f"set -o pipefail\n{self._before()}{text}{KEEP}"
        process = self._start(script, subprocess.PIPE)
        try:
            printed = process.communicate(timeout=SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            printed = process.communicate()[0].decode(errors="replace")
        assert process.returncode == status, f"{text}\nended with status {process.returncode}:\n{printed[-3000:]}"
        return printed

    def start(self, terminal: str, text: str, *, ready: str) -> str:
        """Start what runs until Ctrl-C, in a terminal whose former command is stopped; what it says until `ready`.

        Raises:
            AssertionError: it ended, or was not ready in time.
        """
        self.stop(terminal)
        log = self._directory / "tmp" / f"{terminal}.log"
        with log.open("wb") as out:
            started = Running(text, self._start(self._before() + text, out.fileno()), log)
        self._running[terminal] = started
        for _ in range(int(SECONDS / LOOK_SECONDS)):
            if ready in started.printed():
                return started.printed()
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = started.process.wait(LOOK_SECONDS)
                del self._running[terminal]
                raise AssertionError(f"{text}\nended with status {status}:\n{started.printed()[-3000:]}")
        raise AssertionError(f"{text}\nwas not ready:\n{started.printed()[-3000:]}")

    def stop(self, *terminals: str) -> None:
        """Ctrl-C in these terminals, or in all; the one that was opened first ends last.

        Raises:
            AssertionError: what ran there did not end in order.
        """
        for terminal in reversed(terminals or tuple(self._running)):
            if (running := self._running.pop(terminal, None)) is not None:
                _interrupt(running)

    def _before(self) -> str:
        return '[ ! -e "$STATE" ] || . "$STATE"\n'

    def _start(self, script: str, out: int) -> subprocess.Popen[bytes]:
        """In a group of its own, as an interactive shell does with each command: Ctrl-C reaches all of it."""
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for running in self._running.values():
                _signal(running.process, signal.SIGKILL)
                running.process.wait()


def _interrupt(running: Running) -> None:
    """Ctrl-C; whoever does not heed it is killed, and told of."""
    _signal(running.process, signal.SIGINT)
    try:
        status = running.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(running.process, signal.SIGKILL)
        running.process.wait()
        raise AssertionError(f"{running.text}\ndid not end after Ctrl-C:\n{running.printed()[-3000:]}") from None
    assert status in INTERRUPTED, f"{running.text}\nended with status {status}:\n{running.printed()[-3000:]}"
    assert "Traceback" not in running.printed(), running.printed()[-3000:]


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the group that this process leads; its number is ours until we have waited for it."""
    if process.poll() is None:
        os.killpg(process.pid, number)
