from __future__ import annotations

import asyncio
from pathlib import Path as FilePath

import pytest

from tests.support.hash_seeds import printed_under
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import EngineError
from wanspec_p2p.models.base import Rows
from wanspec_p2p.simulation.drafting_node import NodeSpec
from wanspec_p2p.simulation.laws import VOCAB_SIZE, IidLaw, Text
from wanspec_p2p.simulation.loop import VirtualTimeError
from wanspec_p2p.simulation.metering import Work
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.site import Answer, Site, run_answer
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import FinishReason, Sampling, Segment, SessionId

ROOT = FilePath(__file__).parents[3]
TEXT = Text(7)
PROMPT, TOKENS = (1, 2, 3), 40
TARGET_PASS, DRAFTER_PASS = 0.030, 0.005
PLAIN_SECONDS = TOKENS * TARGET_PASS


def target() -> SimulatedTarget:
    return SimulatedTarget(TEXT, DeviceTime(flat(TARGET_PASS, 64)))


def node(wan: Wan | None = None) -> NodeSpec:
    wan = wan or Wan()
    drafter = SimulatedDrafter(IidLaw(TEXT), DeviceTime(Steps(DRAFTER_PASS, 8)))
    return NodeSpec(drafter, wan.path(), wan.path())


def spec(name: str = "answer", tokens: int = TOKENS) -> SessionSpec:
    return SessionSpec(SessionId(name), PROMPT, bytes(16), Sampling(), VOCAB_SIZE, tokens)


def right(answer: Answer, tokens: int = TOKENS) -> bool:
    return list(answer.tokens) == TEXT.continuation(PROMPT, tokens) and answer.reason is FinishReason.LENGTH


@in_virtual_time
async def test_an_answer_without_nodes_takes_a_pass_a_token() -> None:
    async with Site(target()) as site:
        answer = await run_answer(site, spec())
    assert right(answer)
    assert answer.seconds == pytest.approx(PLAIN_SECONDS)
    assert answer.settled_at == pytest.approx([TARGET_PASS * (n + 1) for n in range(TOKENS)])
    assert (answer.target.passes, answer.target.rows, answer.nodes) == (TOKENS, TOKENS, {})
    assert answer.target.busy == pytest.approx(PLAIN_SECONDS)


@in_virtual_time
async def test_nodes_make_it_faster_and_their_work_is_counted() -> None:
    async with Site(target(), [node(Wan(rtt=0.01)), node(Wan(rtt=0.01))]) as site:
        answer = await run_answer(site, spec())
        assert all(machine.idle for machine in site.nodes)
        assert set(answer.stats.drafters) >= {machine.peer for machine in site.nodes}
    assert right(answer)
    assert answer.seconds < 0.7 * PLAIN_SECONDS
    assert answer.target.passes < TOKENS
    assert list(answer.nodes) == ["node-0", "node-1"]
    assert answer.draft_passes == sum(work.passes for work in answer.nodes.values())
    for work in answer.nodes.values():
        assert work.passes > 0 and work.busy == pytest.approx(work.passes * DRAFTER_PASS)
        assert min(work.frames_up, work.frames_down, work.bytes_up, work.bytes_down) > 0


@in_virtual_time
async def test_the_way_takes_its_time() -> None:
    seconds = []
    for rtt in (0.0, 0.1, 1.0):
        async with Site(target(), [node(Wan(rtt=rtt))], drafters=1) as site:
            answer = await run_answer(site, spec())
            assert right(answer)
            seconds.append(answer.seconds)
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.8 * seconds[2]
    assert seconds[2] <= PLAIN_SECONDS + 1e-9


@in_virtual_time
async def test_answers_side_by_side_share_the_target() -> None:
    async with Site(target(), [node(), node()]) as site:
        answers = await asyncio.gather(*(site.play(spec(f"answer {n}")) for n in range(3)))
        await site.idle()
    assert all(right(answer) for answer in answers)
    work = site.target_work
    assert sum(answer.stats.rounds for answer in answers) == work.segments
    assert max(answer.stats.rounds for answer in answers) == work.passes


@in_virtual_time
async def test_bad_links_change_when_tokens_come_but_not_which() -> None:
    wan = Wan(rtt=0.05, jitter=1.0, loss=0.05, bandwidth=20_000.0)
    async with Site(target(), [node(wan), node(wan), node(wan)], drafters=2) as site:
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, site.nodes[0].disconnect)
        loop.call_later(0.3, site.nodes[1].partition)
        loop.call_later(0.9, site.nodes[1].heal)
        first = await run_answer(site, spec("first"))
        await site.nodes[2].kill()
        second = await run_answer(site, spec("second", 120))
    assert right(first) and right(second, 120)
    assert second.nodes["node-2"] == Work()


@in_virtual_time
async def test_a_model_that_fails_is_said() -> None:
    class Broken(SimulatedTarget):
        async def forward(self, batch: object) -> list[Rows]:
            raise EngineError("no memory")

    async with Site(Broken(TEXT, DeviceTime(flat(TARGET_PASS, 64)))) as site:
        with pytest.raises(EngineError, match="no memory"):
            await run_answer(site, spec())


@in_virtual_time
async def test_a_trace_tells_of_passes_frames_and_tokens() -> None:
    lines: list[bytes] = []
    async with Site(target(), [node()], trace=Trace(LoopClock(), lines.append)) as site:
        answer = await run_answer(site, spec())
    passes = [line for line in lines if b'"event":"pass","machine":"target"' in line]
    assert len(passes) == answer.target.passes
    assert any(b'"event":"frame","sender":"node-0","receiver":"target"' in line for line in lines)
    assert any(b'"event":"answered","session":"answer"' in line for line in lines)
    assert not any(b"error logged" in line for line in lines)


async def play_with_a_model_in_a_thread() -> None:
    class Threaded(SimulatedTarget):
        async def forward(self, batch: list[Segment]) -> list[Rows]:  # type: ignore[override]  # as it is called here
            return await asyncio.to_thread(list, batch)

    async with Site(Threaded(TEXT, DeviceTime(flat(TARGET_PASS, 64)))) as site:
        await run_answer(site, spec())


def test_a_model_that_leaves_virtual_time_ends_the_run() -> None:
    with pytest.raises(VirtualTimeError, match="run_in_executor"):
        in_virtual_time(play_with_a_model_in_a_thread)()


PROGRAM = """
import asyncio
from tests.wanspec_p2p.simulation import test_site as t

async def main():
    wan = t.Wan(rtt=0.05, jitter=0.5, loss=0.05, bandwidth=50_000.0)
    trace = t.Trace(t.LoopClock())
    async with t.Site(t.target(), [t.node(wan) for _ in range(4)], seed=SEED, drafters=3, trace=trace) as site:
        asyncio.get_running_loop().call_later(0.4, site.nodes[0].disconnect)
        await asyncio.gather(*(site.play(t.spec(f"answer {n}")) for n in range(4)))
    print(trace.lines, trace.digest())

from wanspec_p2p.simulation.loop import run_in_virtual_time
run_in_virtual_time(main())
"""


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    first, again = printed_under(PROGRAM.replace("SEED", "5"), "1", "4242")
    assert first.endswith(b"\n") and int(first.split()[0]) > 500
    assert again == first
    assert printed_under(PROGRAM.replace("SEED", "6"), "1") != [first]
