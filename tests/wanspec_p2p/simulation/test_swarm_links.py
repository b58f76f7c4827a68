from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.virtual_time import in_virtual_time
from tests.wanspec_p2p.simulation.test_swarm import spec
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.simulation.swarm import Swarm
from wanspec_p2p.simulation.swarm_population import ARRIVAL_SECONDS
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import PeerId


@in_virtual_time
async def test_ends_are_open_while_they_are_served() -> None:
    async with Swarm(spec(targets=1, nodes=2), seed=1) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        assert swarm.links.open == 5, "three at the coordinator, two at the target"
        assert swarm.links.traffic.received["registernode"] == 2
    assert swarm.links.open == 0


@in_virtual_time
async def test_distance_is_asked_for_by_name_for_each_link() -> None:
    asked: list[tuple[str, str]] = []

    def wan(caller: str, called: str) -> Wan:
        asked.append((caller, called))
        return Wan(rtt=0.02)

    async with Swarm(replace(spec(targets=1, nodes=1), wan=wan), seed=1):
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
    assert list(dict.fromkeys(asked)) == [
        ("target-0", "coordinator"),
        ("node-0", "coordinator"),
        ("node-0", "target-0"),
    ]
    assert asked.count(("node-0", "target-0")) == 4, "its lease, and three round trips that it timed before"


@in_virtual_time
async def test_idle_nodes_time_the_way_to_targets_and_the_coordinator_learns_it() -> None:
    async with Swarm(replace(spec(targets=2, nodes=3), wan=lambda caller, called: Wan(rtt=0.02)), seed=1) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 10.0)
        assert swarm.links.traffic.received["timed"] == 6
        assert swarm.links.traffic.sent["landmarks"] == 3
        way = swarm.executor.registry._coordinates.measured
        for node in swarm.nodes.here.values():
            for target in swarm.targets:
                assert way(node.identity.peer_id, target.identity.peer_id) == pytest.approx(0.02)


@in_virtual_time
async def test_a_target_that_is_none_cannot_be_reached() -> None:
    async with Swarm(spec(nodes=1), seed=1) as swarm:
        with pytest.raises(Unreachable):
            swarm.links.to_target("node-0", PeerId("a" * 32))
        with pytest.raises(Unreachable):
            await swarm.links.time("node-0", PeerId("a" * 32))
