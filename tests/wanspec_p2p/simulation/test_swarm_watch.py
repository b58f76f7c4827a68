from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.virtual_time import in_virtual_time
from tests.wanspec_p2p.simulation.test_swarm import spec
from wanspec_p2p.simulation.swarm import Swarm
from wanspec_p2p.simulation.swarm_churn import Churn, Departure
from wanspec_p2p.simulation.swarm_population import ARRIVAL_SECONDS
from wanspec_p2p.simulation.swarm_watch import CENSUS_SECONDS, SwarmWatch
from wanspec_p2p.types import PeerId


@contextlib.asynccontextmanager
async def watched(nodes: int, churn: Churn | None = None) -> AsyncIterator[tuple[Swarm, SwarmWatch]]:
    async with Swarm(spec(nodes=nodes, churn=churn), seed=1) as swarm:
        watch = SwarmWatch(swarm)
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        try:
            yield swarm, watch
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def attached(swarm: Swarm) -> list[int]:
    """Numbers of the nodes that draft for the only target."""
    pool = swarm.targets[0].target.pool
    assert pool is not None
    return [number for number, node in swarm.nodes.here.items() if node.identity.peer_id in pool.attached]


@in_virtual_time
async def test_arrivals_are_matches_and_nobody_is_replaced_who_is_there() -> None:
    async with watched(nodes=4) as (_, watch):
        assert watch.matches == 2
        assert watch.replacements.seconds == {} and watch.replacements.open == 0


@in_virtual_time
async def test_a_death_is_made_good_within_seconds() -> None:
    async with watched(nodes=4) as (swarm, watch):
        swarm.nodes.doom(attached(swarm)[0])
        await asyncio.sleep(10.0)
        [seconds] = watch.replacements.seconds["died"]
        assert 0.0 < seconds < 5.0
        assert watch.matches == 3


@in_virtual_time
async def test_silence_counts_from_its_beginning_and_is_noticed_later() -> None:
    async with watched(nodes=4, churn=Churn(stay=1e6, away=1e6, silent=1.0)) as (swarm, watch):
        swarm.nodes.doom(attached(swarm)[0])
        await asyncio.sleep(5.0)
        assert watch.replacements.seconds == {} and watch.replacements.open == 1
        await asyncio.sleep(15.0)
        [seconds] = watch.replacements.seconds["silent"]
        assert 5.0 < seconds < 15.0
        assert swarm.nodes.counts.silent == swarm.nodes.counts.died == 1


@in_virtual_time
async def test_without_another_node_the_loss_stays_open() -> None:
    async with watched(nodes=2) as (swarm, watch):
        swarm.nodes.doom(attached(swarm)[0])
        await asyncio.sleep(20.0)
        assert watch.replacements.seconds == {} and watch.replacements.open == 1


@in_virtual_time
async def test_an_entry_for_somebody_who_is_long_gone_is_a_ghost() -> None:
    async with watched(nodes=2) as (swarm, watch):
        number = attached(swarm)[0]
        node = swarm.nodes.here.pop(number)
        swarm.nodes.departures[node.identity.peer_id] = Departure(0.0, "died")  # it says so, and lives on
        await asyncio.sleep(2 * CENSUS_SECONDS)
        assert watch.ghosts == 1
        swarm.nodes.here[number] = node


@in_virtual_time
async def test_somebody_who_is_here_for_long_and_unknown_is_missing() -> None:
    async with watched(nodes=2) as (swarm, watch):
        swarm.executor.registry._nodes.pop(PeerId(swarm.nodes.here[0].identity.peer_id))
        watch._count()
        assert watch.missing == 0, "it may be joining"
        watch._here_since = dict.fromkeys(watch._here_since, -100.0)
        watch._count()
        assert watch.missing == 1
        await swarm.nodes.here[0].kill()
