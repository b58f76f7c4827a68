"""Flags that nodes and targets share. None means the flag was not given: the file and the variables then count."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer

from wanspec_p2p.types import Dtype

__all__ = ["DtypeOption", "JoinTokenText", "LogJson", "Model", "Name", "Owner", "Site", "Slots", "Threads"]


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
