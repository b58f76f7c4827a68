from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.virtual_time import in_virtual_time
from tests.wanspec_p2p.simulation.test_swarm import ask, spec
from wanspec_p2p.simulation.swarm import Swarm
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_population import ARRIVAL_SECONDS


@in_virtual_time
async def test_many_die_at_once_and_are_replaced() -> None:
    async with Swarm(spec(nodes=10, churn=Churn(stay=1e6, away=1e6)), seed=3) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        asking = asyncio.create_task(ask(swarm, 1))
        await asyncio.sleep(0.2)
        assert swarm.nodes.kill(0.8, random.Random(1)) == 8
        await asking
        await asyncio.sleep(20.0)
        assert len(swarm.nodes.here) == len(swarm.executor.registry.nodes) == 2
        pool = swarm.targets[0].target.pool
        assert pool is not None and len(pool.attached) == 2, "those that are left were asked for"
        await ask(swarm, 2)


@in_virtual_time
async def test_who_is_doomed_dies_and_comes_again() -> None:
    async with Swarm(spec(nodes=2, churn=Churn(stay=1e6, away=1.0)), seed=3) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        before = swarm.nodes.here[1]
        swarm.nodes.doom(1)
        await asyncio.sleep(30.0)
        after = swarm.nodes.here[1]
        assert after is not before and after.identity.peer_id == before.identity.peer_id
        assert swarm.nodes.departures[before.identity.peer_id].how == "died"
        assert (swarm.nodes.counts.came, swarm.nodes.counts.died) == (3, 1)


@in_virtual_time
async def test_a_life_that_ends_with_a_bug_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Swarm(spec(nodes=2), seed=3) as swarm:
            monkeypatch.setattr(swarm.nodes, "_drafter", lambda number: 1 // 0)
            await asyncio.sleep(ARRIVAL_SECONDS)
    assert swarm.nodes.here == {} and swarm.links.open == 0
