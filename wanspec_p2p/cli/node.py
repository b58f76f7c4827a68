"""`wanspec node`: lend this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from wanspec_p2p.cli import node_service
from wanspec_p2p.cli.output import Json
from wanspec_p2p.cli.peer_options import (
    CoordinatorUrls,
    DtypeOption,
    LogJson,
    Model,
    Name,
    Owner,
    Site,
    Slots,
    Threads,
    join_token,
    without_joining,
)
from wanspec_p2p.cli.running import WithParent, serve
from wanspec_p2p.cli.settings import DataDir, ShowConfig, prepare_model, service_settings

__all__ = ["app"]

app = typer.Typer(help="Lend this machine: it drafts, and only ever dials out.", no_args_is_help=True)
app.add_typer(node_service.app, name="service")

Discover = Annotated[
    bool | None, typer.Option("--discover", help="Look for the coordinator on the local network; its key decides.")
]


@app.command()
def join(
    context: typer.Context,
    join: Annotated[str, join_token("node")],
    model: Model = None,
    name: Name = None,
    owner: Owner = None,
    site: Site = None,
    slots: Slots = None,
    threads: Threads = None,
    dtype: DtypeOption = None,
    discover: Discover = None,
    coordinator_urls: CoordinatorUrls = None,
    data_dir: DataDir = None,
    log_json: LogJson = None,
    show_config: ShowConfig = False,
    json: Json = False,
    with_parent: WithParent = False,
) -> None:
    """Join the coordinator of TOKEN, and draft until told to stop. Name, owner and site hold for later runs too."""
    from node import daemon
    from node.settings import NodeSettings

    settings = service_settings(NodeSettings, "node", context.params)

    def prepare() -> None:
        prepare_model(settings.model, settings.cache_dir, bars=not settings.log_json)

    serve(daemon.run, settings, name="node", context=context, enrol=daemon.enrol, prepare=prepare)


app.command("run", help="Draft for the coordinator that was joined before, until told to stop.")(without_joining(join))
