"""What happened in a simulation, line by line: JSON with the virtual time of each event.

Two runs of one seed write the same bytes; where they differ, the first differing line says where to look.
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from wanspec_p2p.clock import Clock

__all__ = ["ErrorsLogged", "Trace", "Watched", "logs_kept_out"]

Value = str | int | float | bool | None

_KEPT = 5  # errors that are told in full

_encode = msgspec.json.Encoder().encode


class Trace:
    """Append-only; costs microseconds a line, so whoever plays thousands of answers goes without.

    Args:
        write: takes each line, newline included; None keeps the digest alone.
    """

    def __init__(self, clock: Clock, write: Callable[[bytes], object] | None = None) -> None:
        self.lines = 0
        self._clock, self._write = clock, write
        self._hash = hashlib.sha256()

    def note(self, event: str, /, **facts: Value) -> None:
        """One line: the time in virtual seconds ("at"), what happened, and `facts` in the order they are given."""
        line = _encode({"at": self._clock.monotonic(), "event": event, **facts}) + b"\n"
        self.lines += 1
        self._hash.update(line)
        if self._write is not None:
            self._write(line)

    def digest(self) -> str:
        """SHA-256 of all lines so far, hex."""
        return self._hash.hexdigest()


class ErrorsLogged(RuntimeError):
    """The shipped code met an error it lives with, such as a bug in one session; figures that hide it are worthless."""


@contextmanager
def logs_kept_out(trace: Trace | None = None) -> Iterator[None]:
    """While the body runs the shipped code logs nothing below errors; those go to `trace` if there is one.

    Raises:
        ErrorsLogged: when the body has ended well, and errors were logged.
    """
    before, configured = structlog.get_config(), structlog.is_configured()
    errors: list[str] = []

    def keep(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        facts = {key: str(value) for key, value in event.items() if key not in ("event", "exc_info")}
        cause = sys.exc_info()[1] if event.get("exc_info") is True else event.get("exc_info")
        if isinstance(cause, BaseException):
            facts["cause"] = repr(cause)
        if trace is not None:
            trace.note("error logged", message=str(event.get("event")), **facts)
        if len(errors) < _KEPT:
            errors.append(f"{event.get('event')} {facts or ''}".strip())
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger("error"))
    try:
        yield
    finally:
        if configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
    if errors:
        raise ErrorsLogged(f"errors were logged: {'; '.join(errors)}")


class Watched(ABC):
    """What an experiment plays on, as an asynchronous context manager: its body runs with the logs kept out.

    At its end it raises what went wrong unseen: `ErrorsLogged`, or what `_close` raises.
    """

    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace
        self._quiet = ExitStack()

    async def __aenter__(self) -> Self:
        self._quiet.enter_context(logs_kept_out(self.trace))
        try:
            await self._open()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._close()
        finally:
            self._quiet.__exit__(kind, error, traceback)

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def _close(self) -> None:
        """Also after an `_open` that failed half way."""
