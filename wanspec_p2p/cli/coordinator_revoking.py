"""`wanspec coordinator revoke`: take back what let somebody in."""

from __future__ import annotations

from typing import Annotated

import typer

from wanspec_p2p.cli.coordinator_keeping import settings_of
from wanspec_p2p.cli.output import Json, emit, say
from wanspec_p2p.cli.settings import DataDir
from wanspec_p2p.errors import UsageError

__all__ = ["app"]

app = typer.Typer(help="Take back an API key, a peer's enrolment or a join token.", no_args_is_help=True)


@app.command("key")
def revoke_key(
    name: Annotated[str, typer.Argument(help="The name it was made under, or the key itself.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Refuse an API key from the next request on."""
    from coordinator.admin import revoke_api_key

    revoked = revoke_api_key(settings_of({"data_dir": data_dir}), name)
    if json:
        emit({"name": revoked})
    else:
        say(f"the API key {revoked!r} is not accepted any more")


@app.command("peer")
def revoke_peer(
    peer: Annotated[str, typer.Argument(help="Id of a node or a target, the beginning of it, or its name.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Forget a node or a target. One that is connected has to leave within seconds."""
    from coordinator.admin import revoke_peer as revoke

    gone = revoke(settings_of({"data_dir": data_dir}), peer)
    if json:
        emit({"peer": gone.peer, "role": gone.role.value, "name": gone.name, "pool": gone.pool})
    else:
        say(f"the {gone.role.value} {gone.peer} ({gone.name!r}, pool {gone.pool}) is enrolled no more")
        say("if it is connected to a coordinator that runs, it has to leave within seconds")


@app.command("token")
def revoke_token(
    token: Annotated[str | None, typer.Argument(help="The join token.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every join token given out so far.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Let nobody else in by a join token. Whoever came by it stays."""
    from coordinator.admin import revoke_all_join_tokens, revoke_join_token
    from wanspec_p2p.security.join_tokens import JoinToken

    if (token is None) is not every:
        raise UsageError("give a join token, or --all for every one that was given out")
    settings = settings_of({"data_dir": data_dir})
    count = 1
    if token is None:
        count = revoke_all_join_tokens(settings)
    else:
        revoke_join_token(settings, JoinToken.decode(token))
    if json:
        emit({"tokens": count})
    else:
        say(f"{count} join token{' is' if count == 1 else 's are'} of no use any more; whoever came by one stays")
