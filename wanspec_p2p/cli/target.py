"""`wanspec target`: serve a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

app = typer.Typer(help="Serve a model: it decides every token.", no_args_is_help=True)

Host = Annotated[str | None, typer.Option(help="Address where nodes dial; this machine only by default.")]
Port = Annotated[int | None, typer.Option(help="0 takes any free one.")]
Address = Annotated[str | None, typer.Option(help="What nodes dial, where it is not host and port.", metavar="URL")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM; off loopback one is made if you have none.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM; belongs to --tls-cert.")]
Drafters = Annotated[int | None, typer.Option(help="Nodes that draft for one session.", min=0)]
LocalDrafter = Annotated[
    str | None,
    typer.Option(help="A drafter of the target's own, used where no node's drafts are and it pays.", metavar="MODEL"),
]
LocalPrice = Annotated[
    float | None,
    typer.Option(help="How much dearer than its time a pass of that drafter is held to be: 0.25; more spares passes."),
]
Network = Annotated[bool | None, typer.Option("--network/--no-network", help="Whether nodes draft at all.")]


@app.command()
def join(
    context: typer.Context,
    join: Annotated[str, join_token("target")],
    model: Model = None,
    name: Name = None,
    owner: Owner = None,
    site: Site = None,
    host: Host = None,
    port: Port = None,
    address: Address = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    slots: Slots = None,
    drafters: Drafters = None,
    local_drafter: LocalDrafter = None,
    local_price: LocalPrice = None,
    network: Network = None,
    threads: Threads = None,
    dtype: DtypeOption = None,
    coordinator_urls: CoordinatorUrls = None,
    data_dir: DataDir = None,
    log_json: LogJson = None,
    show_config: ShowConfig = False,
    json: Json = False,
    with_parent: WithParent = False,
) -> None:
    """Join the coordinator of TOKEN, and serve until told to stop. Name, owner and site hold for later runs too."""
    from wanspec_p2p.target import service
    from wanspec_p2p.target.settings import TargetSettings

    settings = service_settings(TargetSettings, "target", context.params)

    def prepare() -> None:
        for name in (settings.model, settings.local_drafter):
            if name is not None:
                prepare_model(name, settings.cache_dir, bars=not settings.log_json)

    serve(service.run, settings, name="target", context=context, enrol=service.enrol, prepare=prepare)


app.command("run", help="Serve for the coordinator that was joined before, until told to stop.")(without_joining(join))
