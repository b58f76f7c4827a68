"""`wanspec status`: who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wanspec_p2p.cli.output import Json, console, emit, printable, short
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint, submitter

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["status"]


def status(
    coordinator: CoordinatorUrl = None, api_key: ApiKey = None, fingerprint: Fingerprint = None, json: Json = False
) -> None:
    """Show a coordinator's targets and nodes."""
    with submitter(coordinator, api_key, fingerprint).client() as client:
        state = client.state()
    if json:
        emit(state)
        return
    screen = console()
    screen.print(_table("target", state.get("targets", []), TARGET_COLUMNS))
    screen.print()
    screen.print(_table("node", state.get("nodes", []), NODE_COLUMNS))


TARGET_COLUMNS = ("name", "id", "model", "state", "sessions", "queued", "drafters", "owner", "site")
NODE_COLUMNS = ("name", "id", "model", "state", "sessions", "pool", "owner", "site", "unmatched")


def _table(kind: str, peers: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """Names and reasons are other people's words: neither markup nor control characters of theirs count."""
    from rich.table import Table
    from rich.text import Text

    headings = [kind, *columns[1:]]
    table = Table(*("why not used" if heading == "unmatched" else heading for heading in headings), box=None)
    table.pad_edge = False
    for peer in peers:
        shown = peer | {"id": short(str(peer.get("id", ""))), "model": _model(peer)}
        cells = ("" if shown.get(column) is None else shown[column] for column in columns)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if not peers:
        table.add_row("none")
    return table


def _model(peer: dict[str, Any]) -> str:
    models = peer.get("models") or [peer.get("model") or ""]
    return ", ".join(str(model.get("name", "")) if isinstance(model, dict) else str(model) for model in models)
