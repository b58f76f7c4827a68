"""`wanspec status`: who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wanspec_p2p.cli.output import Json, console, emit, short
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
    screen.print(_targets(state.get("targets", [])))
    screen.print()
    screen.print(_nodes(state.get("nodes", [])))


def _targets(targets: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("target", "id", "model", "state", "sessions", "queued", "drafters", box=None, pad_edge=False)
    for target in targets:
        counts = (str(target.get(name, "")) for name in ("sessions", "queued", "drafters"))
        table.add_row(target["name"], short(target["id"]), _model(target), str(target.get("state", "")), *counts)
    if not targets:
        table.add_row("none")
    return table


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("node", "id", "model", "state", "sessions", "owner", "site", box=None, pad_edge=False)
    for node in nodes:
        rest = (str(node.get(name, "")) for name in ("state", "sessions", "owner", "site"))
        table.add_row(node["name"], short(node["id"]), _model(node), *rest)
    if not nodes:
        table.add_row("none")
    return table


def _model(peer: dict[str, Any]) -> str:
    models = peer.get("models") or [peer.get("model") or ""]
    return ", ".join(str(model["name"]) if isinstance(model, dict) else str(model) for model in models)
