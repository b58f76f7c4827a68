from __future__ import annotations

import asyncio
from pathlib import Path as FilePath

from tests.support.hash_seeds import printed_under
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.swarm import Swarm, SwarmSpec
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_population import ARRIVAL_SECONDS
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.simulation.wan import Wan

ROOT = FilePath(__file__).parents[3]
TEXT = Text(11)
TOKENS = 32


def spec(
    *, targets: int = 1, nodes: int = 4, churn: Churn | None = None, drafters: int = 2, node_slots: int = 8
) -> SwarmSpec:
    return SwarmSpec(
        target=lambda number: SimulatedTarget(TEXT, DeviceTime(flat(0.030, 64))),
        drafter=lambda number: SimulatedDrafter(IidLaw(TEXT), DeviceTime(Steps(0.005, 8))),
        wan=lambda caller, called: Wan(rtt=0.02, jitter=0.2),
        targets=targets,
        nodes=nodes,
        churn=churn,
        drafters=drafters,
        node_slots=node_slots,
    )


async def ask(swarm: Swarm, number: int) -> None:
    prompt = (1, 2, number)
    answer = await swarm.ask(prompt, TOKENS)
    assert answer.ids == TEXT.continuation(prompt, TOKENS)
    assert answer.finished is not None and answer.finished.usage.completion_tokens == TOKENS


@in_virtual_time
async def test_nodes_join_are_leased_and_draft() -> None:
    async with Swarm(spec(), seed=1) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        assert len(swarm.executor.registry.nodes) == 4
        assert len(swarm.executor.registry.leases) == 2
        answer = await swarm.ask((1, 2, 3), TOKENS)
        assert answer.ids == TEXT.continuation((1, 2, 3), TOKENS)
        assert answer.finished is not None
        assert len(answer.finished.usage.won_by_peer) == 2
        assert answer.finished.usage.rounds < TOKENS
        await asyncio.sleep(5.0)
        assert sum(tally.won for tally in swarm.executor.registry.tallies.values()) > 0
    assert (swarm.nodes.counts.came, swarm.nodes.counts.left, swarm.nodes.counts.died) == (4, 0, 0)


@in_virtual_time
async def test_whoever_comes_and_goes_the_tokens_are_right() -> None:
    churn = Churn(stay=20.0, away=10.0, polite=0.5)
    async with Swarm(spec(targets=2, nodes=12, churn=churn, node_slots=2), seed=2) as swarm:
        for number in range(30):
            await asyncio.gather(ask(swarm, number), ask(swarm, 100 + number))
            await asyncio.sleep(5.0)
        assert len(swarm.nodes.here) <= 12
    assert swarm.nodes.counts.left > 10 and swarm.nodes.counts.died > 10
    assert swarm.nodes.counts.came >= swarm.nodes.counts.left + swarm.nodes.counts.died


PROGRAM = """
import asyncio
from tests.wanspec_p2p.simulation import test_swarm as t
from wanspec_p2p.simulation.loop import run_in_virtual_time

async def main():
    trace = t.Trace(t.LoopClock(), lambda line: print(line.decode(), end=""))
    async with t.Swarm(t.spec(targets=2, nodes=10, churn=t.Churn(30.0, 10.0)), seed=4, trace=trace) as swarm:
        await asyncio.sleep(30.0)
        for number in range(10):
            await asyncio.gather(t.ask(swarm, number), t.ask(swarm, 100 + number))
            await asyncio.sleep(5.0)

run_in_virtual_time(main())
"""


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    outputs = printed_under(PROGRAM, "1", "4242")
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b'"answered"') == 20
    assert b'"died"' in outputs[0]


@in_virtual_time
async def test_errors_that_are_logged_are_traced() -> None:
    lines: list[bytes] = []
    async with Swarm(spec(nodes=2), seed=5, trace=Trace(LoopClock(), lines.append)) as swarm:
        await asyncio.sleep(ARRIVAL_SECONDS + 5.0)
        await ask(swarm, 1)
    assert not [line for line in lines if b"error logged" in line]
    assert [line for line in lines if b'"answered"' in line]
