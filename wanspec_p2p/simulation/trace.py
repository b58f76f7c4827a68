"""What happened in a simulation, line by line: JSON with the virtual time of each event.

Two runs of one seed write the same bytes; where they differ, the first differing line says where to look.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from wanspec_p2p.clock import Clock

__all__ = ["ErrorsLogged", "Trace", "logs_kept_out"]

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
