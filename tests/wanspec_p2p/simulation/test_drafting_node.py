from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import EngineError
from wanspec_p2p.models.base import Rows
from wanspec_p2p.simulation.drafting_node import NodeSpec
from wanspec_p2p.simulation.laws import VOCAB_SIZE, IidLaw, Text
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.site import Site, run_answer
from wanspec_p2p.simulation.trace import ErrorsLogged
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import Sampling, SessionId

TEXT = Text(3)
RTT = 0.02
SESSION = SessionSpec(SessionId("s"), (1, 2), bytes(16), Sampling(), VOCAB_SIZE, 24)


def site(nodes: int = 1, *, seed: int = 0) -> Site:
    target = SimulatedTarget(TEXT, DeviceTime(flat(0.030, 64)))
    wan = Wan(rtt=RTT)
    specs = [
        NodeSpec(SimulatedDrafter(IidLaw(TEXT), DeviceTime(Steps(0.005, 8))), wan.path(), wan.path(), owner="lab")
        for _ in range(nodes)
    ]
    return Site(target, specs, seed=seed, drafters=nodes)


@in_virtual_time
async def test_a_handshake_and_a_lease_come_first() -> None:
    async with site() as made:
        (node,) = made.nodes
        assert asyncio.get_running_loop().time() >= 2 * RTT
        link = made.pool.link(node.peer)
        assert link is not None
        assert (link.lease.node, link.lease.owner, link.lease.site) == (node.peer, "lab", "site of node-0")
        assert node.work.frames_up >= 3 and node.work.bytes_down > 0


@in_virtual_time
async def test_identities_follow_from_the_seed() -> None:
    peers = []
    for seed in (1, 1, 2):
        async with site(2, seed=seed) as made:
            peers.append([node.peer for node in made.nodes])
    assert peers[0] == peers[1] != peers[2]


@in_virtual_time
async def test_a_node_that_is_cut_off_comes_back() -> None:
    async with site() as made:
        (node,) = made.nodes
        node.disconnect()
        await asyncio.sleep(0.001)
        assert made.pool.attached == []
        node.partition()
        await asyncio.sleep(60.0)
        assert made.pool.attached == []
        node.heal()
        await made.attached(1)
        answer = await run_answer(made, SESSION)
        assert answer.stats.won_by_peer == {node.peer: answer.stats.accepted}
        assert answer.stats.accepted > 0


@in_virtual_time
async def test_a_partition_loses_nothing_if_it_is_short() -> None:
    async with site() as made:
        (node,) = made.nodes
        playing = asyncio.create_task(made.play(SESSION))
        await asyncio.sleep(0.1)
        node.partition()
        await asyncio.sleep(0.2)
        node.heal()
        answer = await playing
        assert made.pool.attached == [node.peer]
        assert list(answer.tokens) == TEXT.continuation((1, 2), 24)
        await made.idle()


@in_virtual_time
async def test_a_node_that_dies_is_gone_for_good() -> None:
    async with site() as made:
        (node,) = made.nodes
        await node.kill()
        await asyncio.sleep(60.0)
        assert made.pool.attached == []
        before = node.work
        assert list((await made.play(SESSION)).tokens) == TEXT.continuation((1, 2), 24)
        assert node.work == before


@in_virtual_time
async def test_a_bug_that_ends_a_nodes_engine_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError):
        async with site() as made:
            (node,) = made.nodes

            async def broken(batch: object) -> list[Rows]:
                raise ZeroDivisionError

            node.model.forward = broken  # type: ignore[method-assign]  # a bug where none is expected
            answer = await made.play(SESSION)
            assert list(answer.tokens) == TEXT.continuation((1, 2), 24)


@in_virtual_time
async def test_an_error_that_a_node_lives_with_is_raised_at_the_end() -> None:
    with pytest.raises(ErrorsLogged, match="the model failed"):
        async with site() as made:
            (node,) = made.nodes

            async def failing(batch: object) -> list[Rows]:
                raise EngineError("no memory")

            node.model.forward = failing  # type: ignore[method-assign]  # as above
            answer = await run_answer(made, SESSION)
            assert list(answer.tokens) == TEXT.continuation((1, 2), 24)
