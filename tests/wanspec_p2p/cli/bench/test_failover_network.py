from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.failover_network import NODES, SETTLED_SECONDS, StruckNetwork
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.errors import Unreachable, WanspecError


class Stood:
    """Stands in for a cluster of three targets, of which those in `dead` have ended, and for the client."""

    def __init__(self, *dead: str) -> None:
        self.targets = {name: self._child(name in dead) for name in ("target-1", "target-2", "target-3")}
        self.nodes = {f"honest-{number}": self._child(False) for number in range(NODES)}
        self.started: list[str] = []
        self.away = False
        self.target = {"state": "active", "drafters": 1, "sessions": 0, "queued": 0, "answers": 0}
        self.network = StruckNetwork(cast(Cluster, self), cast(AsyncClient, self), LoopClock())

    @staticmethod
    def _child(dead: bool) -> Any:
        async def ready(seconds: float) -> dict[str, Any]:
            return {}

        return SimpleNamespace(process=SimpleNamespace(returncode=-9 if dead else None), ready=ready)

    async def state(self) -> dict[str, Any]:
        if self.away:
            raise Unreachable("the coordinator is away")
        alive = [child for child in self.targets.values() if child.process.returncode is None]
        return {"targets": [self.target for _ in alive], "nodes": [{"state": "active"} for _ in self.nodes]}

    async def start_target(self, name: str) -> Any:
        self.started.append(name)
        self.targets[name] = self._child(False)
        return self.targets[name]

    async def start_nodes(self, kinds: object) -> None:
        self.started.append("nodes")


@in_virtual_time
async def test_targets_come_back_when_an_answer_would_have_nowhere_to_go() -> None:
    one, two = Stood("target-2"), Stood("target-1", "target-3")
    await one.network.prepare()
    await two.network.prepare()
    assert one.started == ["nodes"], "two are left"
    assert two.started == ["target-1", "target-3", "nodes"]


@in_virtual_time
async def test_nobody_settles_while_the_coordinator_is_away() -> None:
    stood = Stood()
    stood.away = True
    assert not await stood.network.complete()
    asyncio.get_running_loop().call_later(2.0, setattr, stood, "away", False)
    await stood.network.settled()
    assert stood.network.clock.monotonic() >= 2.0


@pytest.mark.parametrize("gone", [{"state": "draining"}, {"drafters": 0}])
@in_virtual_time
async def test_what_never_settles_is_told_of(gone: dict[str, object]) -> None:
    stood = Stood()
    stood.target |= gone
    with pytest.raises(WanspecError, match=f"had not settled after {SETTLED_SECONDS:g} s"):
        await stood.network.settled()


@pytest.mark.parametrize("busy", ["sessions", "queued", "answers"])
async def test_what_is_under_way_still_is_not_idle(busy: str) -> None:
    stood = Stood()
    assert await stood.network.idle()
    stood.target[busy] = 1
    assert not await stood.network.idle()
