"""What happens to nodes, with processes that only say what nodes would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coordinator.settings import CoordinatorSettings
from wanspec_p2p.cli import testbed_troupe
from wanspec_p2p.cli.processes import Child, Fleet
from wanspec_p2p.cli.testbed_troupe import Troupe
from wanspec_p2p.simulation.scenario import Adversaries, Churn, Scenario, Way
from wanspec_p2p.simulation.testbed_peer import Part
from wanspec_p2p.types import Role

PEER = """
import json, sys
token = sys.stdin.readline().strip()
print(json.dumps({"event": "ready", "port": 9}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"sessions": int(sys.argv[1])}), flush=True)
"""
MOST_SECONDS = 30.0


class _Token:
    def encode(self) -> str:
        return "a join token"


class Stage(Fleet):
    """Attributes:
    started: by name, in order.
    idle: names of nodes that draft for nobody.
    parts: of the nodes, by name.
    """

    def __init__(self, directory: Path, idle: frozenset[str]) -> None:
        super().__init__(directory, os.environ)
        self.started: dict[str, Child] = {}
        self.idle, self.parts = idle, dict[str, Part]()
        self._forgotten: asyncio.Queue[Child] = asyncio.Queue()

    def command(self, role: Role, data_dir: Path, *, name: str, part: Part, **others: object) -> list[str]:
        self.parts[name] = part
        return [sys.executable, "-S", "-c", PEER, "0" if name in self.idle else "1"]

    def forget(self, child: Child) -> None:
        super().forget(child)
        self._forgotten.put_nowait(child)

    async def killed(self) -> str:
        """The name of the next one that is."""
        child = await self._forgotten.get()
        assert await child.process.wait() == -signal.SIGKILL
        return child.name

    async def start(self, name: str, *args: object, **kwargs: object) -> Child:
        child = self.started[name] = await super().start(name, *args, **kwargs)  # type: ignore[arg-type]
        return child


@asynccontextmanager
async def on_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario, idle: frozenset[str] = frozenset()
) -> AsyncIterator[tuple[Troupe, Stage]]:
    home = CoordinatorSettings(data_dir=tmp_path / "coordinator", port=0)
    async with (
        asyncio.timeout(MOST_SECONDS),
        Stage(tmp_path, idle) as stage,
        Troupe.on_stage(stage, home, scenario, 0.1, 0) as troupe,
    ):
        monkeypatch.setattr(testbed_troupe, "peer_command", stage.command)
        monkeypatch.setattr(testbed_troupe, "issue_join_token", lambda home, role: _Token())
        await troupe.start()
        yield troupe, stage


async def test_each_node_has_its_part_and_a_way_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(nodes=3, adversaries=Adversaries(lying=1, far=1), wan=Way(rtt_ms=1.0))
    async with on_stage(tmp_path, monkeypatch, scenario) as (_, stage):
        assert list(stage.started) == ["target", "node-1", "node-2", "node-3"]
        parts = [stage.parts[f"node-{number}"] for number in (1, 2, 3)]
        assert [(part.kind, part.slow) for part in parts] == [("lying", 0.1), ("far", 0.1), ("honest", 0.1)]
        assert len({part.through for part in parts}) == 3


async def test_a_lost_drafter_is_killed_and_a_process_that_waited_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    churn = Churn(loss_per_round=1.0, replaced_after_ms=0.0)
    scenario = Scenario(tokens=4, nodes=2, drafters=1, churn=churn, wan=Way(rtt_ms=1.0))  # one is lost in a round
    async with on_stage(tmp_path, monkeypatch, scenario, frozenset({"node-1"})) as (troupe, stage):
        waiting = len(stage.started)
        assert waiting > 3  # the target, two nodes, and those that are to come
        async with troupe.in_trouble():
            troupe.after_round()
            assert await stage.killed() == "node-2"  # the only one that drafts
        assert troupe.lost == 1 and len(stage.started) == waiting


async def test_a_share_is_killed_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(nodes=4, churn=Churn(kill_share=0.5, kill_at_ms=0.0))
    async with on_stage(tmp_path, monkeypatch, scenario) as (troupe, stage):
        async with troupe.in_trouble():
            troupe.after_round()  # nobody is lost by the round
            dead = {await stage.killed() for _ in range(2)}
        assert troupe.lost == len(dead) == 2 and len(stage.started) == 5 and "target" not in dead


async def test_what_goes_wrong_meanwhile_is_raised_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on_stage(tmp_path, monkeypatch, Scenario(nodes=2, churn=Churn(kill_share=1.0, kill_at_ms=0.0))) as (
        troupe,
        stage,
    ):
        failed = asyncio.Event()

        def forget(child: Child) -> None:
            failed.set()
            raise RuntimeError("not a child of ours")

        monkeypatch.setattr(stage, "forget", forget)
        with pytest.raises(RuntimeError, match="not a child of ours"):
            async with troupe.in_trouble():
                await failed.wait()
