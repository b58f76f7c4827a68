"""What the daemons say: to standard error, as lines for people or as JSON for machines. Never a prompt or a secret."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["configure", "ensure_configured"]

REPEATS, REPEAT_SECONDS = 5, 10.0
"""How often a library may say the same in so many seconds. Strangers cause much of it, as often as they like: a port
that has no file descriptor left for them has asyncio write a traceback thousands of times a second."""
MAX_SAYINGS = 256
"""Different ones that are counted."""


def configure(*, json: bool, level: int = logging.INFO) -> None:
    """Set up structlog for this process. Standard output stays free for what a command prints.

    What libraries say through `logging`, and nobody else takes, goes the same way, and so do Python's warnings. Where
    logs are JSON, errors that Python itself would write to standard error do as well: of threads, and of code in which
    nobody can catch them.

    Args:
        level: of the `logging` module; what is below it is not said.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=json),
    ]
    # Tracebacks without local variables: those hold token ids.
    if json:
        plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        rendered: list[Processor] = [
            structlog.processors.ExceptionRenderer(plain),
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendered = [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lossy(sys.stderr))),
    )
    "".encode("unicode_escape")  # else its module is looked for when it is needed, and no file may be left to open then
    logging.lastResort = _Libraries(logging.WARNING)
    warnings.showwarning = _warned
    if json:
        sys.unraisablehook = _ignored
        threading.excepthook = _thread_failed


def ensure_configured(*, json: bool) -> None:
    """As `configure`, unless whoever runs a service inside a process of their own has set up structlog."""
    if not structlog.is_configured():
        configure(json=json)


@dataclass(slots=True)
class _Saying:
    since: float
    times: int = 0


class _Libraries(logging.Handler):
    """Where records end that no other handler takes: uvicorn's of bytes that are no request, asyncio's of tasks.

    Of what is said again and again most is left out, and the next line of it has how many those were (`unsaid`).
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._sayings: dict[object, _Saying] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage().strip()
            if (unsaid := self._unsaid(record, said)) is not None:
                more = {"unsaid": unsaid} if unsaid else {}
                structlog.get_logger().log(record.levelno, said, logger=record.name, exc_info=record.exc_info, **more)
        except Exception:  # whoever logs something must not fail by it
            self.handleError(record)

    def _unsaid(self, record: logging.LogRecord, said: str) -> int | None:
        """How many like it were left out since the last; None where this one is to be left out too."""
        what = record.name, said.partition("\n")[0], record.exc_info and record.exc_info[0]
        saying = self._sayings.get(what)
        unsaid = 0
        if saying is None or not 0 <= record.created - saying.since < REPEAT_SECONDS:  # below 0: the clock was set
            if saying is not None:
                unsaid = max(saying.times - REPEATS, 0)
            elif len(self._sayings) >= MAX_SAYINGS:
                self._sayings.clear()
            saying = self._sayings[what] = _Saying(record.created)
        saying.times += 1
        return unsaid if saying.times <= REPEATS else None


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In the place of `warnings.showwarning`; `logging.captureWarnings` would put all of it into one text."""
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    where = f"{filename}:{lineno}"
    with contextlib.suppress(Exception):  # whoever warns must not fail by it
        structlog.get_logger().warning(str(message), logger="py.warnings", category=category.__name__, where=where)


def _ignored(unraisable: UnraisableHookArgs) -> None:
    """What was at hand when it happened is not shown: its name is made of what it holds."""
    error = unraisable.exc_value
    _fell(unraisable.err_msg or "an exception that nobody could catch", error or unraisable.exc_type())


def _thread_failed(thread: threading.ExceptHookArgs) -> None:
    if thread.exc_type is not SystemExit:
        _fell("a thread ended with an exception", thread.exc_value or thread.exc_type())


def _fell(event: str, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # at the end of the process, perhaps, when half of it is gone
        structlog.get_logger().error(event, exc_info=error)


class _Lossy:
    """A stream that loses what cannot be written: on a full disk, or with nobody left to read, services go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it has been closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A peer chooses some of these words; they must not move the cursor or make up lines of their own."""
    return {
        key: value.encode("unicode_escape").decode() if isinstance(value, str) and not value.isprintable() else value
        for key, value in event.items()
    }
