from __future__ import annotations

from tests.support.target_benches import PoolBench, running_target
from tests.support.target_kit import CoordinatorEnd, target_alone, until
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.protocol.target_to_coordinator import TargetHeartbeat
from wanspec_p2p.types import Sampling


@in_virtual_time
async def test_a_pool_bench_attaches_nodes_and_runs_sessions() -> None:
    async with PoolBench() as bench:
        node = await bench.node(owner="lab-b")
        runner = bench.session(count=4)
        opened = await node.opened()
        await node.draft(opened, target_alone(bench.model, (1, 2, 3), 4, Sampling()))
        await until(lambda: runner.session.stats.of(node.identity.peer_id).drafted == 4)
        await bench.finish()
        assert len(bench.answers["s"]) == 4
        assert bench.came == 1 and bench.went  # a second lane is empty


@in_virtual_time
async def test_a_coordinator_end_takes_targets_in_and_fails_when_told_to() -> None:
    async with running_target() as bench:
        assert isinstance(bench.coordinator, CoordinatorEnd)
        link, registration = await bench.coordinator.taken_in(heartbeat=1.0)
        assert registration.model.name == "scripted"
        assert (await bench.coordinator.heard(link, TargetHeartbeat)).sessions == 0
        bench.coordinator.failures = [Unreachable("nobody answers")]
        await link.close()
        await bench.coordinator.taken_in()
        assert bench.coordinator.dialled == 3
        node = await bench.node()
        pool = bench.target.pool
        assert pool is not None
        await until(lambda: pool.attached == [node.identity.peer_id])
