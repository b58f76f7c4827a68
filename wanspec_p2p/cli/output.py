"""What goes to the screen: results to stdout, everything about how it is going to stderr."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Json",
    "Progress",
    "console",
    "debugging",
    "emit",
    "printable",
    "progress_bars",
    "say",
    "short",
    "shows_everything",
]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what, done, total): as the model catalog reports it; total 0 is unknown."""


def shows_everything() -> bool:
    """Whether stdout takes any character: it is UTF-8."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name == "utf-8"


def emit(value: object) -> None:
    """One JSON value on one line of stdout, flushed: somebody may wait for it. ASCII where stdout is not UTF-8."""
    import orjson

    text = orjson.dumps(value).decode()
    if not shows_everything():
        text = json.dumps(orjson.loads(text))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A result for people, on stdout."""
    typer.echo(text)


def console(*, stderr: bool = False, wrap: bool = False) -> Console:
    """`wrap`: lines too long for the screen are broken between words; otherwise by the terminal, or not at all."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not wrap)


def printable(text: object) -> str:
    """Text from elsewhere, without what a terminal would obey: control characters become U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def debugging() -> bool:
    """Whether errors are to come with their tracebacks."""
    return os.environ.get("WANSPEC_DEBUG", "0") not in ("", "0")


def short(peer: str) -> str:
    """A peer id as people can compare it."""
    return peer[:8]


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr, one for each thing that is going on; nothing at all where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show
