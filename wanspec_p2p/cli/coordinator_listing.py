"""`wanspec coordinator list`: who was let in, and what would let somebody in. No secret is known here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import typer

from wanspec_p2p.cli.coordinator_keeping import settings_of
from wanspec_p2p.cli.output import Json, console, emit, printable, say
from wanspec_p2p.cli.settings import DataDir

__all__ = ["app"]

app = typer.Typer(help="Show who is enrolled, API keys and open join tokens.", no_args_is_help=True)


@app.command("peers")
def list_peers(data_dir: DataDir = None, json: Json = False) -> None:
    """Every node and target that is enrolled, connected or not, as it introduced itself when it joined."""
    from coordinator.admin import peers

    found = peers(settings_of({"data_dir": data_dir}))
    if json:
        emit([peer._asdict() for peer in found])
        return
    rows = [(p.peer, p.role.value, p.name, p.owner, p.site, p.pool, _moment(p.enrolled)) for p in found]
    _show(("id", "role", "name", "owner", "site", "pool", "enrolled"), rows, nothing="nobody is enrolled")


@app.command("keys")
def list_keys(data_dir: DataDir = None, json: Json = False) -> None:
    """The API keys that are accepted, by their names."""
    from coordinator.admin import api_keys

    found = api_keys(settings_of({"data_dir": data_dir}))
    if json:
        emit([key._asdict() for key in found])
        return
    _show(("name", "created"), [(key.name, _moment(key.created)) for key in found], nothing="there is no API key")


@app.command("tokens")
def list_tokens(data_dir: DataDir = None, json: Json = False) -> None:
    """The join tokens that would still admit somebody."""
    from coordinator.admin import open_join_tokens

    found = open_join_tokens(settings_of({"data_dir": data_dir}))
    if json:
        emit([token._asdict() for token in found])
        return
    rows = [(t.role.value, t.pool, str(t.uses_left), _moment(t.expires)) for t in found]
    _show(("role", "pool", "uses left", "expires"), rows, nothing="no join token is open")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _show(headings: Sequence[str], rows: Iterable[Sequence[str]], *, nothing: str) -> None:
    """A line each into a file or a pipe, whatever its length. On a screen the first column is whole, however narrow: it
    is what other commands are given."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number in (0, len(headings) - 1), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(word)) for word in row))
    if not table.row_count:
        say(nothing)
        return
    screen = console()
    if not screen.is_terminal:
        screen.width = screen.measure(table, options=screen.options.update(width=1_000_000)).maximum
    screen.print(table)
