"""How the coordinator's log looks. Standard error, so that standard output stays for what a command prints."""

from __future__ import annotations

import sys

import structlog

__all__ = ["configure_logging"]


def configure_logging(*, as_json: bool) -> None:
    """Set up structlog, unless whoever runs us in one process with others has done so."""
    if structlog.is_configured():
        return
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            _printable,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _printable(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Names and reasons come from peers: they must not move the cursor of whoever reads the log, or start a line."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode()
    return event
