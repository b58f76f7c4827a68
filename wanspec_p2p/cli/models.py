"""`wanspec models`: what is here, fetch it, check it, say where it lies."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from wanspec_p2p.cli.output import Json, console, emit, progress_bars, say
from wanspec_p2p.cli.settings import model_cache

__all__ = ["app"]

app = typer.Typer(help="Models in this user's cache.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A catalog name, a directory, or a hub id.")]


@app.command("list")
def list_models(json: Json = False) -> None:
    """Models that need no more than their name."""
    entries = model_cache().entries()
    if json:
        emit(
            [
                {"name": e.name, "summary": e.summary, "licence": e.licence, "size": e.size, "ready": e.ready}
                for e in entries
            ]
        )
        return
    from rich.table import Table

    table = Table("name", "what", "licence", "size", "in the cache", box=None, pad_edge=False)
    for entry in entries:
        ready = "yes" if entry.ready else "no"
        table.add_row(entry.name, entry.summary, entry.licence, f"{entry.size / 1e6:.0f} MB", ready)
    console().print(table)


@app.command()
def pull(name: ModelName, json: Json = False) -> None:
    """Fetch and convert a model, unless it is here already."""
    with progress_bars() as progress:
        path = model_cache(progress).path(name)
    emit({"name": name, "path": str(path)}) if json else say(f"{name} is ready in {path}")


@app.command()
def verify(name: ModelName, json: Json = False) -> None:
    """Compare every file of a model with the digest it was stored with."""
    with progress_bars() as progress:
        manifest = model_cache(progress).verify(name)
    if json:
        emit({"name": name, "digest": manifest.digest, "files": sorted(manifest.files)})
    else:  # digests of a directory of one's own are taken whenever a file of it was changed
        since = "as when they were last changed" if os.path.isdir(name) else "what they were"
        say(f"{name}: {len(manifest.files)} files are {since}; weights {manifest.digest}")


@app.command()
def path(name: ModelName, json: Json = False) -> None:
    """Print the directory of a model, fetching it first if it must be."""
    with progress_bars() as progress:
        directory = model_cache(progress).path(name)
    emit({"name": name, "path": str(directory)}) if json else say(str(directory))
