"""Flags that nodes and targets share. None means the flag was not given: the file and the variables then count."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, TypeAlias

import typer

from wanspec_p2p.types import Dtype

__all__ = [
    "DtypeOption",
    "JoinTokenText",
    "LogJson",
    "Model",
    "Name",
    "Owner",
    "Site",
    "Slots",
    "Threads",
    "without_joining",
]

SAID_IN_JOINING = ("join", "name", "owner", "site")
"""Parameters of a `join` command that its `run` does not have."""


def _from_stdin(token: str) -> str:
    """A token is a secret, and flags can be seen by every user of a machine."""
    return sys.stdin.readline().strip() if token == "-" else token


JoinTokenText: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="TOKEN", help="From the coordinator's operator; - reads it from stdin.", callback=_from_stdin
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
