from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from node.drafting import CPU_ROWS, MAX_BATCH, ROWS, DraftingEngine, Seat
from tests.support.scripted_models import ScriptedModel
from tests.support.session_rows import SureTable
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import EngineError
from wanspec_p2p.models.base import ModelInfo
from wanspec_p2p.models.torch_attention import ROW_MULTIPLE
from wanspec_p2p.speculation.drafter_session import DrafterSession, DrafterSpec
from wanspec_p2p.speculation.events import (
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    PauseOver,
    SessionClosed,
    Started,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Abandon,
    DrafterInstruction,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    StartFlushTimer,
    StartPause,
)
from wanspec_p2p.types import Device, Sampling, Segment, SessionId

PREFIX = (5, 6, 7)


@dataclass
class Heard:
    """An outlet that keeps what the session said."""

    tokens: list[int] = field(default_factory=list)
    declined: str | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def draft(self, draft: SendDraft) -> None:
        self.tokens += draft.tokens
        self.news.set()

    def decline(self, reason: str) -> None:
        self.declined = reason
        self.news.set()

    async def until(self, count: int) -> list[int]:
        async with asyncio.timeout(5):
            while len(self.tokens) < count:
                self.news.clear()
                await self.news.wait()
        return self.tokens


def seat(engine: DraftingEngine, heard: Heard, *, prefix: Sequence[int] = PREFIX, positions: int = 8) -> Seat:
    cache = engine.cache_name()
    info = engine.model.info
    spec = DrafterSpec(
        session=SessionId("same name for all"),
        cache=cache,
        prefix=tuple(prefix),
        prompt_len=len(prefix),
        seed=bytes(16),
        sampling=Sampling(),
        vocab_size=info.vocab_size,
        stop_tokens=(),
        window=Window(positions, positions),
        context=info.context,
    )
    return engine.seat(DrafterSession(spec, SureTable()), cache, heard)


def greedy(model: ScriptedModel, prefix: Sequence[int], count: int) -> list[int]:
    tokens = list(prefix)
    for _ in range(count):
        tokens.append(int(model.row(tokens).argmax()))
    return tokens[len(prefix) :]


@asynccontextmanager
async def running(model: ScriptedModel, clock: ManualClock | None = None) -> AsyncIterator[DraftingEngine]:
    engine = DraftingEngine(model, clock=clock or ManualClock())
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        engine.stop()
        async with asyncio.timeout(5):
            await task


async def settled(engine: DraftingEngine) -> None:
    """Let the engine do all it can do now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_session_drafts_what_the_model_says_up_to_its_window() -> None:
    model = ScriptedModel(1)
    async with running(model) as engine:
        heard = Heard()
        seat(engine, heard)
        assert await heard.until(8) == greedy(model, PREFIX, 8)
        await settled(engine)
        assert len(model.batches) == 8


async def test_sessions_share_passes_and_never_caches() -> None:
    model = ScriptedModel(1)
    prefixes = [(1,), (2, 3), (4, 5, 6)]
    async with running(model) as engine:
        all_heard = [Heard() for _ in prefixes]
        for heard, prefix in zip(all_heard, prefixes, strict=True):
            seat(engine, heard, prefix=prefix)
        assert engine.sessions == 3
        for heard, prefix in zip(all_heard, prefixes, strict=True):
            assert await heard.until(8) == greedy(model, prefix, 8)
    assert [len(batch) for batch in model.batches] == [3] * 8


@pytest.mark.parametrize(("device", "rows"), [(Device.CPU, CPU_ROWS), (Device.CUDA, ROWS)])
def test_a_session_runs_as_many_nodes_in_a_pass_as_cost_no_more_than_one(device: Device, rows: int) -> None:
    class Elsewhere(ScriptedModel):
        @property
        def info(self) -> ModelInfo:
            return dataclasses.replace(super().info, device=device)

    engine = DraftingEngine(Elsewhere(1), clock=ManualClock())
    assert engine.batch == rows
    assert CPU_ROWS % ROW_MULTIPLE == 0


async def test_nobody_waits_for_a_second_turn_of_somebody_else() -> None:
    model = ScriptedModel(1)
    async with running(model) as engine:
        all_heard = [Heard() for _ in range(MAX_BATCH + 2)]
        for heard in all_heard:
            seat(engine, heard, positions=2)
        for heard in all_heard:
            await heard.until(2)
    first, second, *_ = model.batches
    assert len(first) == MAX_BATCH
    left_over = [segment.cache for segment in second[:2]]
    assert left_over == [f"draft-{MAX_BATCH}", f"draft-{MAX_BATCH + 1}"]


class Gate:
    """Holds a pass until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, batch: Sequence[Segment]) -> None:
        self.reached.set()
        await self.open.wait()


async def test_a_session_closed_in_mid_pass_says_nothing_more_and_its_cache_goes_after_the_pass() -> None:
    gate = Gate()
    model = ScriptedModel(1, before_forward=gate)
    async with running(model) as engine:
        leaving, staying = Heard(), Heard()
        closing = seat(engine, leaving)
        seat(engine, staying)
        await gate.reached.wait()
        closing.close()
        assert engine.sessions == 1
        assert model.caches == {}  # the pass has not run yet
        gate.open.set()
        await staying.until(8)
        await settled(engine)
        assert list(model.caches) == ["draft-1"]
    assert leaving.tokens == []
    assert leaving.declined is None


class Timed:
    """A session that asks for a timer and keeps what it is told."""

    def __init__(self, *timers: DrafterInstruction) -> None:
        self.timers = timers
        self.told: list[DrafterEvent] = []

    def handle(self, event: DrafterEvent) -> list[DrafterInstruction]:
        self.told.append(event)
        match event:
            case Started():
                return list(self.timers)
            case SessionClosed():
                return [Release()]
            case _:
                return []


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    ("timers", "event"),
    [
        ((StartFlushTimer(0.0),), FlushDue(0.0)),
        ((StartPause(0.0),), PauseOver(0.0)),
        ((StartPause(0.0), StartPause(0.0)), PauseOver(0.0)),  # the later one stands
    ],
)
async def test_a_timer_comes_back_once_unless_the_session_has_ended(
    timers: tuple[DrafterInstruction, ...], event: DrafterEvent, closed: bool
) -> None:
    engine = DraftingEngine(ScriptedModel(1), clock=ManualClock())
    core = Timed(*timers)
    timed = engine.seat(core, engine.cache_name(), Heard())
    if closed:
        timed.close()
        timed.close()
    await settled(engine)
    assert core.told == [Started(0.0), SessionClosed(0.0) if closed else event]


async def test_a_failing_model_ends_the_sessions_of_that_pass_and_no_others() -> None:
    broken = True

    async def fail(batch: Sequence[Segment]) -> None:
        if broken:
            raise EngineError("CUDA out of memory at /secret/path")

    clock = ManualClock()
    model = ScriptedModel(1, before_forward=fail)
    async with running(model, clock) as engine:
        unlucky = Heard()
        seat(engine, unlucky)
        async with asyncio.timeout(5):
            await unlucky.news.wait()
        assert unlucky.declined == "the drafter's model failed"  # and nothing about this machine
        assert engine.sessions == 0
        assert engine.paused
        broken = False
        lucky = Heard()
        seat(engine, lucky)
        assert await lucky.until(8) == greedy(model, PREFIX, 8)


class Contradictory:
    """Goes on from where its cache has never been, which only a bug would do."""

    def __init__(self, cache: str) -> None:
        self.cache = cache

    def handle(self, event: DrafterEvent) -> list[DrafterInstruction]:
        match event:
            case Started():
                return [RequestModel()]
            case ModelFree():
                return [RunPass(Segment(self.cache, 7, (), (1,)))]
            case ModelFailed(reason):
                return [Abandon(reason), Release()]
            case _:
                return []


async def test_a_pass_that_cannot_be_ends_the_session_that_asked_for_it_and_no_other() -> None:
    model = ScriptedModel(1)
    async with running(model) as engine:
        company, wrong = Heard(), Heard()
        seat(engine, company)
        cache = engine.cache_name()
        engine.seat(Contradictory(cache), cache, wrong)
        assert await company.until(8) == greedy(model, PREFIX, 8)
        assert wrong.declined == "the drafter's model failed"
        assert (engine.sessions, engine.paused) == (1, "")


async def test_the_pause_after_a_failure_grows_and_ends() -> None:
    async def fail(batch: Sequence[Segment]) -> None:
        raise EngineError("broken")

    clock = ManualClock()
    pauses = []
    async with running(ScriptedModel(1, before_forward=fail), clock) as engine:
        for _ in range(8):
            heard = Heard()
            seat(engine, heard)
            async with asyncio.timeout(5):
                await heard.news.wait()
            begun = clock.monotonic()
            while engine.paused:
                clock.advance(1.0)
            pauses.append(clock.monotonic() - begun)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


async def test_stop_lets_the_running_pass_finish() -> None:
    gate = Gate()
    model = ScriptedModel(1, before_forward=gate)
    engine = DraftingEngine(model, clock=ManualClock())
    task = asyncio.create_task(engine.run())
    seat(engine, Heard())
    await gate.reached.wait()
    engine.stop()
    await settled(engine)
    assert not task.done()
    gate.open.set()
    async with asyncio.timeout(5):
        await task
    assert len(model.batches) == 1


@pytest.mark.parametrize("context", [4, 6])
async def test_nothing_is_drafted_beyond_the_context(context: int) -> None:
    model = ScriptedModel(1, context=context)
    async with running(model) as engine:
        heard = Heard()
        seat(engine, heard)
        await heard.until(context - len(PREFIX))
        await settled(engine)
        assert heard.tokens == greedy(model, PREFIX, context - len(PREFIX))
        assert heard.declined is None
