from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.main import app as wanspec
from wanspec_p2p.cli.peer_options import Name, Owner, Site, without_joining
from wanspec_p2p.errors import ExitCode


def test_run_has_the_flags_of_join_and_is_the_same_command() -> None:
    called: list[Any] = []
    app = typer.Typer()

    @app.command()
    def join(
        context: typer.Context,
        join: Annotated[str, typer.Argument()],
        name: Name = None,
        owner: Owner = None,
        site: Site = None,
        slots: Annotated[int, typer.Option()] = 3,
    ) -> None:
        called.append((context.info_name, context.params, join, owner, slots))

    app.command("run")(without_joining(join))
    command = typer.main.get_command(app)
    command.main(["join", "TOKEN", "--owner", "ada"], standalone_mode=False)
    command.main(["run", "--slots", "4"], standalone_mode=False)
    assert called == [
        ("join", {"join": "TOKEN", "name": None, "owner": "ada", "site": None, "slots": 3}, "TOKEN", "ada", 3),
        ("run", {"slots": 4}, None, None, 4),
    ]


@pytest.mark.parametrize("service", ["node", "target"])
def test_run_and_join_of_a_service_differ_by_what_is_said_in_joining(service: str) -> None:
    commands: Any = typer.main.get_command(wanspec)
    names = {
        word: [parameter.name for parameter in commands.commands[service].commands[word].params]
        for word in ("join", "run")
    }
    assert names["run"] == [name for name in names["join"] if name not in ("join", "name", "owner", "site")]
    assert len(names["run"]) == len(names["join"]) - 4


@pytest.mark.parametrize("service", ["node", "target"])
def test_run_takes_no_token_and_no_owner(run: Run, service: str) -> None:
    for words in (("TOKEN",), ("--owner", "ada")):
        code, out, err = run(service, "run", *words)
        assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
