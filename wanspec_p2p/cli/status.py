"""`wanspec status`: who is there, and how well each drafter model fits its target."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from wanspec_p2p.cli.output import Json, console, emit, printable, say, short
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint, submitter
from wanspec_p2p.errors import LinkClosed, Unreachable

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    from wanspec_p2p.client import Client

__all__ = ["status"]


Watch = Annotated[
    float | None, typer.Option("--watch", help="Look again every so many seconds, until Ctrl-C.", min=0.2)
]


def status(
    coordinator: CoordinatorUrl = None,
    api_key: ApiKey = None,
    fingerprint: Fingerprint = None,
    watch: Watch = None,
    json: Json = False,
) -> None:
    """Show a coordinator's targets and nodes, and how often drafters are right."""
    with submitter(coordinator, api_key, fingerprint).client() as client:
        if watch is None:
            _print(client.state(), json=json)
        elif json or not (sys.stdout.isatty() and console().is_interactive):
            _watch(client, watch, json=json)
        else:
            _watch_on_screen(client, watch)


def _print(state: dict[str, Any], *, json: bool) -> None:
    if json:
        emit(state)
    else:
        screen = console(wrap=sys.stdout.isatty())
        screen.print(_page(state, screen))


def _watch(client: Client, seconds: float, *, json: bool) -> None:
    """Look after look, until interrupted. A coordinator that is away for a while is waited for, and that is said once;
    the first look has to succeed."""
    _print(client.state(), json=json)
    away = False
    while True:
        time.sleep(seconds)
        try:
            state = client.state()
        except (Unreachable, LinkClosed) as error:
            if not away:
                typer.echo(f"wanspec: {_away(error, seconds)}", err=True)
            away = True
            continue
        away = False
        if not json:
            say("")
        _print(state, json=json)
        sys.stdout.flush()


def _watch_on_screen(client: Client, seconds: float) -> None:
    """As `_watch`, each look in the place of the one before, with as many rows as the screen has room for."""
    from rich.live import Live
    from rich.text import Text

    screen = console(wrap=True)
    with Live(_fitting(client.state(), screen), console=screen, auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(seconds)
            try:
                live.update(_fitting(client.state(), screen))
            except (Unreachable, LinkClosed) as error:
                live.update(Text(_away(error, seconds)))


def _away(error: Exception, seconds: float) -> str:
    return f"{_line(error)}; looking again every {seconds:g} s"


def _fitting(state: dict[str, Any], screen: Console) -> Group:
    """The page as far as the screen has room: with fewer nodes if need be, and with less of all if that will not do."""

    def fits(page: Group) -> bool:
        return len(screen.render_lines(page, pad=False)) < screen.height  # one line is left to the shell

    def most(page: Callable[[int], Group]) -> Group:
        """Of as many rows as fit, or of one."""
        low, high = 1, max(screen.height, 2)
        while high - low > 1:
            rows = (low + high) // 2
            low, high = (rows, high) if fits(page(rows)) else (low, rows)
        return page(low)

    page = _page(state, screen)
    if not fits(page):
        page = most(lambda rows: _page(state, screen, nodes=rows))
    if not fits(page):
        page = most(lambda rows: _page(state, screen, nodes=rows, others=rows))
    return page


def _page(state: dict[str, Any], screen: Console, *, nodes: int | None = None, others: int | None = None) -> Group:
    """With `nodes` at most so many of them, and with `others` of all else; those first that something is said about."""
    from rich.console import Group
    from rich.text import Text

    targets = _first(state.get("targets", []), others, lambda target: _state(target) != "active")
    lent = _first(state.get("nodes", []), nodes, lambda node: node.get("unmatched") or _state(node) != "active")
    pairs = _first(state.get("acceptance", []), others, lambda pair: pair.get("misfit"))
    parts: list[Table | Text] = [
        *_peers("target", targets, TARGET_COLUMNS, screen),
        Text(),
        *_peers("node", lent, NODE_COLUMNS, screen),
        *_grouped(lent.shown, lambda node: node.get("unmatched") and f"not used: {_line(node['unmatched'])}"),
        Text(),
        _acceptance(pairs.shown),
        *pairs.more,
    ]
    for pair in pairs.shown:
        if pair.get("misfit"):
            names = f"{_name(pair, 'drafter')} for {_name(pair, 'target')}"
            parts.append(Text(f"{names}: {_line(pair['misfit'])}"))
    predictions = state.get("rtt_predictions", {})
    error = predictions.get("median_relative_error")
    if isinstance(error, int | float):
        checked = _line(predictions.get("checked", ""))
        words = f"round trips predicted before they were measured: {checked}, half of them within {error:.0%}"
        parts += [Text(), Text(words)]
    return Group(*parts)


class _Rows(NamedTuple):
    shown: list[dict[str, Any]]
    more: list[Text]  # a line on those that are not


def _first(entries: list[dict[str, Any]], rows: int | None, striking: Callable[[dict[str, Any]], object]) -> _Rows:
    from rich.text import Text

    if rows is None or len(entries) <= rows:
        return _Rows(entries, [])
    shown = sorted(entries, key=lambda entry: not striking(entry))[:rows]
    return _Rows(shown, [Text(f"and {len(entries) - rows} more: without --watch all are shown")])


def _grouped(peers: list[dict[str, Any]], words: Callable[[dict[str, Any]], str | None]) -> list[Text]:
    """Lines of what is said about peers, each with all it is said about."""
    from rich.text import Text

    names: dict[str, list[str]] = {}
    for peer in peers:
        if said := words(peer):
            names.setdefault(said, []).append(f"{_line(peer.get('name', ''))} {short(_line(peer.get('id', '')))}")
    return [Text(f"{', '.join(those)}: {said}") for said, those in names.items()]


TARGET_COLUMNS = ("name", "id", "model", "state", "heard", "sessions", "queued", "drafters")
NODE_COLUMNS = ("name", "id", "model", "state", "heard", "sessions", "pool")
WHENCE = ("owner", "site")
UNKNOWN = (None, "", "unknown")
"""What peers say that were not told it."""
WHOLE_CELLS = 20
"""Names of models are kept on one line where none is longer."""
DEPTHS, NAME_CELLS = (1, 2, 3), 27
"""With these the table of acceptance fits 100 columns."""


def _peers(kind: str, peers: _Rows, columns: tuple[str, ...], screen: Console) -> list[Table | Text]:
    """A table; owners and sites, where they are known, are columns of it, or lines below where it has no room."""
    known = tuple(column for column in WHENCE if any(peer.get(column) not in UNKNOWN for peer in peers.shown))
    table = _table(kind, peers.shown, (*columns, *known))
    endless = screen.options.update(width=1_000_000)
    if screen.measure(table, options=endless).maximum <= screen.width:
        return [table, *peers.more]
    table = _table(kind, peers.shown, columns)
    if screen.measure(table, options=endless).maximum > screen.width:
        table.padding = (0, 1, 0, 0)
    return [table, *peers.more, *_grouped(peers.shown, _whence)]


def _whence(peer: dict[str, Any]) -> str:
    return ", ".join(_line(peer[column]) for column in WHENCE if peer.get(column) not in UNKNOWN)


def _table(kind: str, peers: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """Names are other people's words: neither markup nor control characters of theirs count."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    rows = [peer | {"id": short(str(peer.get("id", ""))), "model": _model(peer)} for peer in peers]
    rows = [row | {"state": _state(row), "heard": _heard(row)} for row in rows]
    long = any(len(row["model"]) > WHOLE_CELLS for row in rows)
    for column in columns:
        folded = column == "name" or (column == "model" and long)
        table.add_column(kind if column == "name" else column, no_wrap=not folded, overflow="fold")
    for row in rows:
        cells = ("" if row.get(column) is None else row[column] for column in columns)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if not peers:
        table.add_row("none")
    return table


def _state(peer: dict[str, Any]) -> object:
    """A hung target counts as active while its heartbeats are not overdue."""
    return "not answering" if peer.get("hung") else peer.get("state")


def _heard(peer: dict[str, Any]) -> str | None:
    """How long ago; heartbeats come every other second."""
    silent = peer.get("silent_seconds")
    return f"{silent:.0f} s ago" if isinstance(silent, int | float) else None


def _model(peer: dict[str, Any]) -> str:
    models = peer.get("models") or [peer.get("model") or ""]
    return ", ".join(str(model.get("name", "")) if isinstance(model, dict) else str(model) for model in models)


def _acceptance(pairs: list[dict[str, Any]]) -> Table:
    """The share of drafted positions that were right: of all that are kept, of the last days, at each depth."""
    from rich.table import Table
    from rich.text import Text

    table = Table("target model", "drafter model", box=None, pad_edge=False)
    for heading in ("positions", "α", "recent", *(f"α{'₀₁₂₃'[depth]}" for depth in DEPTHS)):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        at = {entry.get("depth"): entry for entry in pair.get("by_depth", [])}
        shares = (_share(figures) for figures in (pair, pair.get("recent", {}), *(at.get(d, {}) for d in DEPTHS)))
        positions = Text(printable(pair.get("reached", "")))
        table.add_row(_name(pair, "target"), _name(pair, "drafter"), positions, *shares)
    if not pairs:
        table.add_row("none")
    return table


def _name(pair: dict[str, Any], role: str) -> Text:
    """The digest goes first: it tells a model from its successor of the same name, however long that is."""
    from rich.text import Text

    model = pair.get(role, {})
    name = Text(f"{short(_line(model.get('digest', '')))} {_line(model.get('name', ''))}")
    name.truncate(NAME_CELLS, overflow="ellipsis")
    return name


def _line(words: object) -> str:
    return " ".join(printable(words).split())


def _share(figures: dict[str, Any]) -> str:
    alpha = figures.get("alpha")
    return f"{alpha:.2f}" if isinstance(alpha, int | float) else "–"
