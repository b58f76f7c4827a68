"""Flags that nodes and targets share. None means the flag was not given: the file and the variables then count."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer

from wanspec_p2p.errors import JoinTokenError
from wanspec_p2p.types import Dtype

__all__ = [
    "CoordinatorUrls",
    "DtypeOption",
    "LogJson",
    "Model",
    "Name",
    "Owner",
    "Site",
    "Slots",
    "Threads",
    "join_token",
    "without_joining",
]

SAID_IN_JOINING = ("join", "name", "owner", "site")
"""Parameters of a `join` command that its `run` does not have."""


def join_token(service: str) -> Any:
    """The TOKEN argument of a service's `join`. Its variable is that of the setting, as for `run`."""
    return typer.Argument(
        metavar="TOKEN",
        help="From the coordinator's operator; - reads it from stdin.",
        envvar=f"WANSPEC_{service.upper()}_JOIN",
        callback=_from_stdin,
    )


def _from_stdin(token: str) -> str:
    """A token is a secret: arguments can be seen by every user of a machine, and shells write them down.

    Raises:
        JoinTokenError: stdin was to hold it, and does not.
    """
    if token != "-":
        return token
    line = ""
    if sys.stdin is not None:  # it is where stdin is closed
        if sys.stdin.isatty():
            typer.echo("Join token: ", nl=False, err=True)
        with contextlib.suppress(UnicodeDecodeError):
            # One line and no more: with --with-parent the rest is how the parent tells us that it is there.
            line = sys.stdin.readline().strip()
    if not line:
        raise JoinTokenError("there is no join token on stdin: its first line should be one")
    return line


CoordinatorUrls: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--coordinator-url",
        help="Where else the coordinator is; may be given again.",
        metavar="URL",
        show_default=False,
    ),
]
Model: TypeAlias = Annotated[
    str | None, typer.Option("--model", help="A name of `wanspec models list`, a directory, or a hub id.")
]
Name: TypeAlias = Annotated[str | None, typer.Option("--name", help="What people call it; the host name by default.")]
Owner: TypeAlias = Annotated[str | None, typer.Option("--owner", help="Who lends it.")]
Site: TypeAlias = Annotated[str | None, typer.Option("--site", help="Where it stands.")]
Slots: TypeAlias = Annotated[int | None, typer.Option("--slots", help="Sessions at the same time.", min=1)]
Threads: TypeAlias = Annotated[int | None, typer.Option("--threads", help="CPU threads of the model.", min=1)]
DtypeOption: TypeAlias = Annotated[Dtype | None, typer.Option("--dtype", help="What the model computes in.")]
LogJson: TypeAlias = Annotated[bool | None, typer.Option("--log-json", help="Logs as JSON lines.")]


def without_joining(join: Callable[..., None]) -> Callable[..., None]:
    """The `run` that goes with a `join` command: the same flags but for what is said in joining."""

    @functools.wraps(join)
    def run(**given: object) -> None:
        join(**dict.fromkeys(SAID_IN_JOINING), **given)

    # typer reads a command's flags from its signature; one that is set is taken as it is, so its types are resolved.
    signature = inspect.signature(join, eval_str=True)
    left = [parameter for name, parameter in signature.parameters.items() if name not in SAID_IN_JOINING]
    run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]  # functions may have one
    return run
