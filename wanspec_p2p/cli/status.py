"""`wanspec status`: who is there, and how well each drafter model fits its target."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p.cli.output import Json, console, emit, printable, short
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint, submitter
from wanspec_p2p.errors import LinkClosed, Unreachable

if TYPE_CHECKING:
    from rich.console import Group
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
        if watch is not None:
            _watch(client, watch, json=json)
        elif json:
            emit(client.state())
        else:
            console().print(_page(client.state()))


def _watch(client: Client, seconds: float, *, json: bool) -> None:
    """Until interrupted. A coordinator that is away for a while is waited for; the first look has to succeed."""
    from rich.live import Live
    from rich.text import Text

    state = client.state()
    if json:
        while True:
            emit(state)
            time.sleep(seconds)
            state = client.state()
    with Live(_page(state), console=console(), auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(seconds)
            try:
                live.update(_page(client.state()))
            except (Unreachable, LinkClosed) as error:
                live.update(Text(f"{_line(error)}; looking again every {seconds:g} s"))


def _page(state: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    acceptance = state.get("acceptance", [])
    parts: list[Table | Text] = [
        _table("target", state.get("targets", []), TARGET_COLUMNS),
        Text(),
        _table("node", state.get("nodes", []), NODE_COLUMNS),
        Text(),
        _acceptance(acceptance),
    ]
    for pair in acceptance:
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


TARGET_COLUMNS = ("name", "id", "model", "state", "heard", "sessions", "queued", "drafters", "owner", "site")
NODE_COLUMNS = ("name", "id", "model", "state", "heard", "sessions", "pool", "owner", "site", "unmatched")
DEPTHS, NAME_CELLS = (1, 2, 3), 27
"""With these the table of acceptance fits 100 columns."""


def _table(kind: str, peers: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """Names and reasons are other people's words: neither markup nor control characters of theirs count."""
    from rich.table import Table
    from rich.text import Text

    headings = [kind, *columns[1:]]
    table = Table(*("why not used" if heading == "unmatched" else heading for heading in headings), box=None)
    table.pad_edge = False
    for peer in peers:
        shown = peer | {"id": short(str(peer.get("id", ""))), "model": _model(peer)}
        shown |= {"state": _state(peer), "heard": _heard(peer)}
        cells = ("" if shown.get(column) is None else shown[column] for column in columns)
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
