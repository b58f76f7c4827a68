"""The demo's own part: starting, waiting, asking twice, tidying up. The services are stood in for by small programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_coordinator import NODE_A, NODE_B, FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import coordinator_child, demo_run
from wanspec_p2p.errors import ExitCode

SERVICE = """
import os, pathlib, sys
name, url, pids, dies = sys.argv[1:]
pathlib.Path(pids, f"{name}.{os.getpid()}").touch()
if name == dies:
    sys.exit("no memory left")
if name != "coordinator" and sys.stdin.readline() != "s3cret\\n":
    sys.exit("no token came")
print('{"event": "ready", "url": "%s"}' % url, flush=True)
sys.stdin.read()
"""


class Stage:
    """Children that stand in for the services, and what became of them."""

    def __init__(self, pids: Path, temporary: Path, url: str) -> None:
        self._pids, self._temporary, self._url = pids, temporary, url
        self.dies = "nobody"
        self.commands: list[tuple[str, ...]] = []

    def command(self, *arguments: str) -> list[str]:
        self.commands.append(arguments)
        if arguments[0] == "models":
            return [sys.executable, "-S", "-c", "pass"]
        name = "coordinator" if arguments[0] == "coordinator" else arguments[arguments.index("--name") + 1]
        return [sys.executable, "-S", "-c", SERVICE, name, self._url, str(self._pids), self.dies]

    def started(self) -> set[str]:
        return {path.stem for path in self._pids.iterdir()}

    def assert_nothing_is_left(self) -> None:
        assert list(self._temporary.iterdir()) == []
        for path in self._pids.iterdir():
            with pytest.raises(ProcessLookupError):
                os.kill(int(path.suffix[1:]), 0)


@pytest.fixture
def fake() -> FakeCoordinator:
    return FakeCoordinator(drafters=len(demo_run.NODES))


@pytest.fixture
def stage(fake: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    pids, temporary = tmp_path / "pids", tmp_path / "tmp"
    pids.mkdir()
    temporary.mkdir()

    class Token:
        def encode(self) -> str:
            return "s3cret"

    with serving(fake) as url:
        stage = Stage(pids, temporary, url)
        for starting in (demo_run, coordinator_child):
            monkeypatch.setattr(starting, "wanspec_command", stage.command)
        monkeypatch.setattr(demo_run, "issue_join_token", lambda settings, role: Token())
        monkeypatch.setattr(demo_run, "create_api_key", lambda settings, name: "key")
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield stage


def test_it_streams_compares_and_leaves_nothing(run: Run, stage: Stage, fake: FakeCoordinator) -> None:
    code, out, err = run("demo", "--prompt", "Why?", "--max-tokens", "5")
    assert code == 0
    assert "\nWhy?\n\nThe sky is blue.\n" in out
    assert out.splitlines()[-1] == "identical to the target alone: yes"
    assert "starting the coordinator\n" in err
    assert stage.started() == {"coordinator", "target", *(node.name for node in demo_run.NODES)}
    stage.assert_nothing_is_left()
    together, alone = fake.requests
    assert "wanspec" not in together and alone["wanspec"] == {"network": False}
    assert {**together, "wanspec": None} == {**alone, "wanspec": None}


def test_no_token_is_in_a_command_that_others_can_read(run: Run, stage: Stage) -> None:
    assert run("demo")[0] == 0
    assert [command[:3] for command in stage.commands if command[1] == "join"] == [
        ("target", "join", "-"),
        *[("node", "join", "-")] * len(demo_run.NODES),
    ]
    assert not any("s3cret" in argument for command in stage.commands for argument in command)


def test_json_is_one_object(run: Run, stage: Stage) -> None:
    import json

    code, out, _ = run("demo", "--json")
    found = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert found["identical"] is True and found["tokens"] == 5 and found["rounds"] == 3
    assert found["won_by_peer"] == {"lab-a": 2, "lab-b": 1}


def test_a_difference_has_an_exit_code_of_its_own(run: Run, stage: Stage, fake: FakeCoordinator) -> None:
    fake.lies_alone = True
    code, out, err = run("demo")
    assert (code, err.count("wanspec: ")) == (ExitCode.NOT_IDENTICAL, 0)
    assert out.splitlines()[-1].startswith("identical to the target alone: NO, they part at token 4")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--prompt", ""),
        ("--prompt", "\udcff"),
        ("--temperature", "nan"),
        ("--temperature", "101"),
        ("--seed", str(2**63)),
    ],
)
def test_nothing_is_started_for_what_cannot_be_asked(run: Run, stage: Stage, wrong: tuple[str, str]) -> None:
    code, out, err = run("demo", *wrong)
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert wrong[0].removeprefix("--") in err or "messages" in err
    assert stage.commands == []


@pytest.mark.parametrize("dies", ["coordinator", "target", "edsger"])
def test_a_part_that_dies_is_named_with_its_last_words(run: Run, stage: Stage, dies: str) -> None:
    stage.dies = dies
    code, out, err = run("demo")
    assert (code, out) == (ExitCode.FAILURE, "")
    assert f"  {dies} │ no memory left\n" in err
    assert err.splitlines()[-1] == f"wanspec: the {dies} ended with status 1, its last words: no memory left"
    stage.assert_nothing_is_left()


def test_nodes_that_never_attach_are_not_waited_for_for_ever(
    run: Run, stage: Stage, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.drafters = 1
    monkeypatch.setattr(demo_run, "ATTACH_SECONDS", 0.05)
    code, _, err = run("demo")
    assert code == ExitCode.FAILURE
    assert err.splitlines()[-1] == "wanspec: the nodes were not attached to the target after 0.05 s"
    stage.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(
    run: Run, stage: Stage, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    async def interrupted(client: object) -> dict[str, str]:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(demo_run, "_attached", interrupted)
    code, out, err = run("demo")
    assert (code, out) == (ExitCode.INTERRUPTED, "")
    assert "Traceback" not in err and stage.started()
    stage.assert_nothing_is_left()


def test_nodes_differ_in_what_drafters_of_one_session_must_differ_in() -> None:
    assert len({node.owner for node in demo_run.NODES}) == len({node.site for node in demo_run.NODES}) == 3
    assert {NODE_A, NODE_B}.isdisjoint({node.name for node in demo_run.NODES})
