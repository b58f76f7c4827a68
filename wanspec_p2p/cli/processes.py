"""Services as children of this process: started in groups of their own, waited for, and ended by their own pids."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import wanspec_p2p
from wanspec_p2p.errors import WanspecError

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "STOP_SECONDS",
    "Child",
    "ChildDied",
    "Fleet",
    "wanspec_command",
    "wanspec_environment",
    "with_fleet",
]

T = TypeVar("T")

STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
LAST_LINES = 12


def wanspec_command(*arguments: str) -> list[str]:
    """This very wanspec. `-P` keeps the current directory, and any folder named `node` in it, off the path."""
    return [sys.executable, "-P", "-m", "wanspec_p2p.cli", *arguments]


def wanspec_environment(environ: Mapping[str, str], config: Path) -> dict[str, str]:
    """For a child that must not be swayed by the user's settings: `config` replaces the configuration directory."""
    kept = {"WANSPEC_CACHE_DIR", "WANSPEC_DEBUG", "WANSPEC_WHEELS"}
    child = {name: value for name, value in environ.items() if not name.startswith("WANSPEC_") or name in kept}
    root = str(Path(wanspec_p2p.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    # torch may make a folder for compiled kernels where temporary files go, and never removes it.
    compiled = str(config.parent / "torchinductor")
    return child | {"XDG_CONFIG_HOME": str(config), "PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": compiled}


class ChildDied(WanspecError):
    """A child ended before it was told to; `lines` are the last it logged."""

    def __init__(self, name: str, status: int, lines: Sequence[str]) -> None:
        how = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        said = f", its last words: {lines[-1]}" if lines else ""
        super().__init__(f"the {name} ended with {how}{said}")
        self.name, self.status, self.lines = name, status, tuple(lines)


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def ready(self, seconds: float) -> dict[str, Any]:
        """The object of its ready line.

        Raises:
            ChildDied: it ended instead.
            WanspecError: it said nothing in time, or something else.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self.process.stdout.readline()
                if not line:
                    await self.process.wait()
        except TimeoutError:
            raise WanspecError(f"the {self.name} was not ready after {seconds:g} s") from None
        if not line:
            raise self.died()
        try:
            message = json.loads(line)
            if message["event"] != "ready":
                raise ValueError(message["event"])
        except (ValueError, TypeError, KeyError) as error:
            raise WanspecError(f"the {self.name} said {line[:80]!r} where its ready line was due") from error
        return dict(message)

    def died(self) -> ChildDied:
        assert self.process.returncode is not None
        return ChildDied(self.name, self.process.returncode, self.last_lines())

    def last_lines(self) -> list[str]:
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, LAST_LINES) if line.strip()]

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to what is still there after `STOP_SECONDS`."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Fleet:
    """Children that all end when the `async with` block does, the one that was started first last.

    Args:
        directory: where their logs go, `NAME.log` each.
        environment: of every child.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._children: list[Child] = []

    async def start(self, name: str, command: Sequence[str], *, secret: str | None = None) -> Child:
        """Its stdin stays open as long as we live: `--with-parent` lets it notice our end, whatever ended us.

        Args:
            secret: the first line of its stdin. Other users of this machine can read a command, and not this.
        """
        log = self._directory / f"{name}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment,
                process_group=0,  # Ctrl-C in the terminal is for us alone; we end them in order
            )
        child = Child(name, process, log)
        self._children.append(child)
        if secret is not None:
            assert process.stdin is not None
            process.stdin.write(f"{secret}\n".encode())  # a pipe holds far more; a child that died is noticed later
        return child

    async def finish(self, name: str, command: Sequence[str]) -> None:
        """Run a command to its end; it shares our stderr, so that its bars are seen.

        Raises:
            WanspecError: it failed; it has said why.
        """
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=self._environment, process_group=0
        )
        child = Child(name, process, self._directory / f"{name}.log")
        self._children.append(child)
        if status := await process.wait():
            raise WanspecError(f"the {name} failed with status {status}")
        self._children.remove(child)

    async def while_alive(self, work: Awaitable[T]) -> T:
        """The result of `work`.

        Raises:
            ChildDied: a child ended meanwhile that had not been forgotten; `work` is cancelled.
        """
        task = asyncio.ensure_future(work)
        ends = [asyncio.ensure_future(child.process.wait()) for child in self._children]
        try:
            while not task.done():
                await asyncio.wait(
                    [task, *(end for end in ends if not end.done())], return_when=asyncio.FIRST_COMPLETED
                )
                dead = next((child for child in self._children if child.process.returncode is not None), None)
                if dead is not None and not task.done():
                    raise dead.died()
            return task.result()
        finally:
            for pending in (task, *ends):
                pending.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    def forget(self, child: Child) -> None:
        """It has ended, as it was meant to."""
        self._children.remove(child)

    def kill(self) -> None:
        for child in self._children:
            child.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The coordinator started first and ends last: the others say goodbye to it.
        await asyncio.gather(*(child.stop() for child in self._children[1:]))
        await asyncio.gather(*(child.stop() for child in self._children[:1]))


async def with_fleet(prefix: str, work: Callable[[Fleet, Path, Mapping[str, str]], Coroutine[Any, Any, T]]) -> T:
    """Do `work` with a fleet, its folder and its children's environment, of which nothing is left afterwards.

    Args:
        prefix: of the folder's name.

    Raises:
        KeyboardInterrupt: there was a signal, during the work or while the children were ended.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        directory = Path(name)
        environment = wanspec_environment(os.environ, directory / "config")
        fleet = Fleet(directory, environment)
        with _Interrupts(fleet) as interrupts:
            async with fleet:
                return await interrupts.run(work(fleet, directory, environment))


class _Interrupts:
    """The first signal ends the work in order, the second one every child at once. Afterwards signals do what they did
    before, which the loop forgets: a command that has more to do than this work still tidies up.

    Raises:
        KeyboardInterrupt: at the end of the block; there was a signal.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._received = False
        self._cancel: Callable[[], object] = lambda: None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._cancel = task.cancel
        return await task

    def _interrupt(self) -> None:
        if self._received:
            self._fleet.kill()
        self._received = True
        self._cancel()

    def __enter__(self) -> Self:
        self._before = {at: signal.getsignal(at) for at in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number in self._before:
            self._loop.add_signal_handler(number, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            self._loop.remove_signal_handler(number)
            if handler is not None:  # else it was not set from Python
                signal.signal(number, handler)
        if self._received and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise KeyboardInterrupt from None
