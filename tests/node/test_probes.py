from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from node.drafting import DraftingEngine
from node.probes import BENCHMARK_PASSES, BENCHMARK_SECONDS, GreedySession, answer_probe, tokens_per_second
from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import EngineError
from wanspec_p2p.protocol.coordinator_to_node import ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import ProbeResult
from wanspec_p2p.speculation.events import Drafted, ModelFree, Started
from wanspec_p2p.speculation.instructions import Release
from wanspec_p2p.types import Segment


async def answer(model: ScriptedModel, request: ProbeRequest) -> ProbeResult:
    engine = DraftingEngine(model, clock=ManualClock())
    task = asyncio.create_task(engine.run())
    try:
        async with asyncio.timeout(5):
            return await answer_probe(engine, request, ManualClock())
    finally:
        engine.stop()
        await task
        assert model.caches == {}
        assert engine.sessions == 0


async def test_a_probe_is_answered_greedily() -> None:
    model = ScriptedModel(3)
    tokens = [1, 2]
    for _ in range(5):
        tokens.append(int(model.row(tokens).argmax()))
    result = await answer(model, ProbeRequest(probe="p", model="scripted", prefix=(1, 2), count=5))
    assert result == ProbeResult(probe="p", tokens=tuple(tokens[2:]), seconds=0.0)


@pytest.mark.parametrize(
    "request_",
    [
        ProbeRequest(probe="p", model="another", prefix=(1,), count=1),
        ProbeRequest(probe="p", model="scripted", prefix=(300,), count=1),
        ProbeRequest(probe="p", model="scripted", prefix=(1,) * 4096, count=1),
    ],
)
async def test_what_cannot_be_drafted_is_answered_with_nothing(request_: ProbeRequest) -> None:
    assert (await answer(ScriptedModel(3), request_)).tokens == ()


async def test_a_model_that_fails_answers_with_what_it_had() -> None:
    async def fail_third(batch: Sequence[Segment]) -> None:
        if len(model.batches) == 3:
            raise EngineError("broken")

    model = ScriptedModel(3, before_forward=fail_third)
    result = await answer(model, ProbeRequest(probe="p", model="scripted", prefix=(1, 2), count=5))
    assert len(result.tokens) == 2


def test_no_opinion_ends_a_probe() -> None:
    session = GreedySession("c", (1,), 5, 4)
    session.handle(Started(0.0))
    session.handle(ModelFree(0.0))
    assert session.handle(Drafted(np.zeros(4, np.float32), 0.0)) == [Release()]
    assert session.tokens == []


async def test_speed_is_passes_over_time_and_leaves_no_cache() -> None:
    clock = ManualClock()

    async def take_a_while(batch: Sequence[Segment]) -> None:
        clock.advance(0.5 if len(batch[0].tokens) > 1 else 0.01)  # the prefill does not count

    model = ScriptedModel(1, before_forward=take_a_while)
    assert await tokens_per_second(model, clock) == pytest.approx(100.0)
    assert len(model.batches) == 1 + BENCHMARK_PASSES
    assert model.caches == {}


async def test_a_slow_model_is_not_measured_for_long() -> None:
    clock = ManualClock()

    async def crawl(batch: Sequence[Segment]) -> None:
        clock.advance(BENCHMARK_SECONDS / 2)

    model = ScriptedModel(1, before_forward=crawl)
    assert await tokens_per_second(model, clock) == pytest.approx(1.0)
    assert len(model.batches) == 3


async def test_a_model_that_cannot_run_says_so_at_the_start() -> None:
    async def fail(batch: Sequence[Segment]) -> None:
        raise EngineError("no kernel image")

    model = ScriptedModel(1, before_forward=fail)
    with pytest.raises(EngineError, match="no kernel image"):
        await tokens_per_second(model, ManualClock())
