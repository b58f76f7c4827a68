"""`wanspec coordinator`: run one, and let peers and submitters in."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from wanspec_p2p.cli import coordinator_keeping, coordinator_listing, coordinator_revoking
from wanspec_p2p.cli.coordinator_keeping import settings_of
from wanspec_p2p.cli.output import Json, emit, say
from wanspec_p2p.cli.peer_options import LogJson
from wanspec_p2p.cli.running import WithParent, serve
from wanspec_p2p.cli.settings import DataDir, ShowConfig

__all__ = ["app"]

app = typer.Typer(help="Run a coordinator, and let peers and submitters in.", no_args_is_help=True)


class PeerRole(enum.StrEnum):
    NODE = "node"
    TARGET = "target"


@app.command()
def run(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen at; this machine only by default.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free one.")] = None,
    data_dir: DataDir = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="What peers dial, where it is not host and port.", metavar="URL")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM; off loopback one is made if you have none.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM; belongs to --tls-cert.")] = None,
    proxy_cert: Annotated[Path | None, typer.Option(help="PEM; of the TLS proxy in front, where there is one.")] = None,
    advertise: Annotated[bool | None, typer.Option("--advertise", help="Announce it on the local network.")] = None,
    log_json: LogJson = None,
    show_config: ShowConfig = False,
    json: Json = False,
    with_parent: WithParent = False,
) -> None:
    """Run the coordinator until it is told to stop."""
    from coordinator import service

    settings = settings_of(context.params)
    serve(service.run, settings, name="coordinator", context=context)


@app.command()
def token(
    role: Annotated[PeerRole, typer.Option(help="Whom it admits.")] = PeerRole.NODE,
    pool: Annotated[str, typer.Option(help="The pool it admits to.")] = "default",
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.", min=1)] = 3600,
    uses: Annotated[int, typer.Option(help="How many peers it admits.", min=1)] = 1,
    url: Annotated[str | None, typer.Option(help="What the peer dials, if not what the coordinator says.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print a join token: one string that admits a node or a target."""
    from coordinator.admin import has_run, issue_join_token
    from wanspec_p2p.types import Role

    settings = settings_of({"data_dir": data_dir})
    begun = has_run(settings)
    issued = issue_join_token(settings, role=Role(role.value), pool=pool, ttl=ttl, url=url, uses=uses)
    if json:
        emit({"token": issued.encode(), "url": issued.url, "role": role.value, "pool": pool, "expires": issued.expires})
    else:
        say(issued.encode())
    if not begun:
        typer.echo(f"no coordinator has run in {settings.data_dir} yet: the token is for the one that will", err=True)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in the coordinator's records.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print a new API key for a submitter. It is shown once."""
    from coordinator.admin import create_api_key, keys_are_needed

    settings = settings_of({"data_dir": data_dir})
    first = not keys_are_needed(settings)
    secret = create_api_key(settings, name)
    if json:
        emit({"name": name, "api_key": secret})
    else:
        say(secret)
    if first:
        typer.echo(
            "it is the first one: from now on commands and programs on this machine need a key too "
            "(WANSPEC_API_KEY, --api-key, or api_key in [submitter] of wanspec.toml)",
            err=True,
        )


app.add_typer(coordinator_listing.app, name="list")
app.add_typer(coordinator_revoking.app, name="revoke")
app.command("backup")(coordinator_keeping.backup)
app.command("restore")(coordinator_keeping.restore)
app.command("rotate-key")(coordinator_keeping.rotate_key)
app.command("rotate-cert")(coordinator_keeping.rotate_certificate)
app.command("ca")(coordinator_keeping.certificate)
