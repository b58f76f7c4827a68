from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from tests.support.scripted_models import ScriptedModel
from tests.support.session_rows import prefix_hash
from tests.support.target_kit import SEED, target_alone
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.events import DraftArrived
from wanspec_p2p.speculation.instructions import AnnounceVerdict, Emit, OpenDraft, SendVerdict
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import FinishReason, PeerId, Sampling, Segment, SessionId, TokenId

PROMPT = (1, 2, 3)
NODE = PeerId("n" * 32)


@dataclass
class Channel:
    """A `DraftChannel` with one drafter, which joins at once and is told whatever it is told."""

    said: list[object] = field(default_factory=list)
    present: set[SessionRunner] = field(default_factory=set)

    def begin(self, runner: SessionRunner) -> None:
        self.present.add(runner)
        runner.join(NODE, 0, "lease-1")

    def end(self, runner: SessionRunner) -> None:
        self.present.remove(runner)

    def open(self, runner: SessionRunner, instruction: OpenDraft) -> None:
        self.said.append(instruction)

    def announce(self, runner: SessionRunner, instruction: AnnounceVerdict) -> None:
        self.said.append(instruction)

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None:
        self.said.append(instruction)

    def close_session(self, runner: SessionRunner, drafter: PeerId) -> None:
        self.said.append(f"close {drafter}")


class Bench:
    """One model, its engine, and answers on it. `gate` holds passes back until it is set; then they take `seconds`."""

    def __init__(self, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.seconds = seconds
        self.knowledge = Knowledge()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.failure: Exception | None = None
        self.model = ScriptedModel(seed=1, before_forward=self._before)
        self.engine = Engine(self.model, slots=4)
        self.channel = Channel()

    async def _before(self, batch: Sequence[Segment]) -> None:
        self.begun.set()
        await self.gate.wait()
        await asyncio.sleep(self.seconds())
        if self.failure is not None:
            raise self.failure

    def runner(
        self,
        name: str,
        emit: Callable[[Emit], None],
        *,
        count: int = 8,
        channel: Channel | None = None,
        clock: ManualClock | None = None,
    ) -> SessionRunner:
        spec = SessionSpec(SessionId(name), PROMPT, SEED, Sampling(), 256, count)
        return SessionRunner(TargetSession(spec), self.engine, channel, emit, clock or ManualClock())

    async def answer(self, name: str) -> list[TokenId]:
        tokens: list[TokenId] = []
        runner = self.runner(name, lambda emit: tokens.extend(t.token for t in emit.tokens))
        assert await runner.run() is FinishReason.LENGTH
        return tokens

    async def nothing_is_left(self) -> None:
        """No cache is held, and the model is free."""
        assert self.model.caches == {}
        assert self.channel.present == set()
        self.failure = None
        self.gate.set()
        async with asyncio.timeout(1):
            assert await self.answer("another") == target_alone(self.model, PROMPT, 8, Sampling())
        assert self.model.caches == {}


@in_virtual_time
async def test_the_answer_is_that_of_the_rule_and_its_cache_is_released() -> None:
    bench = Bench()
    assert await bench.answer("s") == target_alone(bench.model, PROMPT, 8, Sampling())
    await bench.nothing_is_left()


@in_virtual_time
async def test_what_is_thought_about_a_pass_is_part_of_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, clock = Bench(), ManualClock()
    wish = TargetSession.wish

    def thoughtful(session: TargetSession, at: float) -> Wish:
        clock.advance(0.25)
        return wish(session, at)

    monkeypatch.setattr(TargetSession, "wish", thoughtful)
    runner = bench.runner("s", lambda emit: None, clock=clock)
    assert await runner.run() is FinishReason.LENGTH
    assert runner.session.knowledge.verify.mean == pytest.approx(0.25)
    await bench.nothing_is_left()


@in_virtual_time
async def test_drafters_are_opened_told_and_closed_and_drafts_settle_several_tokens_a_round() -> None:
    bench = Bench()
    expected = target_alone(bench.model, PROMPT, 8, Sampling())
    emits: list[Emit] = []
    bench.gate.clear()
    runner = bench.runner("s", emits.append, channel=bench.channel)
    running = asyncio.create_task(runner.run())
    await bench.begun.wait()
    runner.feed(DraftArrived(NODE, 3, prefix_hash("s", PROMPT), tuple(expected[:5]), (), (), 0.0))
    bench.gate.set()
    assert await running is FinishReason.LENGTH
    assert [t.token for emit in emits for t in emit.tokens] == expected
    assert max(len(emit.tokens) for emit in emits) == 5  # four of the draft were left when it came, and one more
    assert isinstance(bench.channel.said[0], OpenDraft)
    assert bench.channel.said[-1] == f"close {NODE}"
    assert sum(isinstance(word, SendVerdict) for word in bench.channel.said) == len(emits) - 1
    assert runner.leases == {NODE: "lease-1"}
    await bench.nothing_is_left()


@in_virtual_time
async def test_a_verdict_is_announced_when_its_pass_begins() -> None:
    bench = Bench(seconds=lambda: 0.25)
    engine = Engine(bench.model, 4, bench.knowledge, ScriptedModel(seed=2))
    spec = SessionSpec(SessionId("s"), PROMPT, SEED, Sampling(), 256, 8)
    session = TargetSession(spec, knowledge=bench.knowledge, local=engine.draft_reach)
    runner = SessionRunner(session, engine, bench.channel, lambda emit: None, LoopClock())
    assert await runner.run() is FinishReason.LENGTH
    said = [word for word in bench.channel.said if isinstance(word, AnnounceVerdict | SendVerdict)]
    announced = [word for word in said if isinstance(word, AnnounceVerdict)]
    assert announced[-1] == AnnounceVerdict(NODE, pytest.approx(0.25))
    assert all(isinstance(after, SendVerdict) for word, after in pairwise(said) if isinstance(word, AnnounceVerdict))


@in_virtual_time
async def test_cancelled_in_a_pass_it_lets_go_of_model_and_cache_only_when_the_pass_is_over() -> None:
    """However often it is cancelled: the pass writes to the cache, and the next one needs the model."""
    bench = Bench()
    bench.gate.clear()
    running = asyncio.create_task(bench.runner("s", lambda emit: None, channel=bench.channel).run())
    await bench.begun.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(1)
    bench.begun.clear()
    waiting = asyncio.create_task(bench.answer("t"))
    await asyncio.sleep(1)
    assert not running.done()
    assert not bench.begun.is_set(), "two passes at once"
    bench.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await waiting) == 8
    await bench.nothing_is_left()


@in_virtual_time
async def test_a_pass_that_fails_while_its_session_is_cancelled_is_nobodys_unseen_exception() -> None:
    bench = Bench()
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    bench.gate.clear()
    bench.failure = EngineError("out of memory")
    running = asyncio.create_task(bench.runner("s", lambda emit: None).run())
    await bench.begun.wait()
    running.cancel()
    await asyncio.sleep(1)
    bench.gate.set()
    await asyncio.wait([running])
    assert running.cancelled()
    del running
    gc.collect()
    assert unseen == []
    await bench.nothing_is_left()


@in_virtual_time
async def test_cancelled_before_the_pass_has_begun() -> None:
    bench = Bench()
    running = asyncio.create_task(bench.runner("s", lambda emit: None).run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bench.nothing_is_left()


@in_virtual_time
async def test_cancelled_while_another_session_has_the_model() -> None:
    bench = Bench()
    bench.gate.clear()
    first = asyncio.create_task(bench.answer("first"))
    await bench.begun.wait()
    second = asyncio.create_task(bench.runner("second", lambda emit: None, channel=bench.channel).run())
    await asyncio.sleep(1)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    bench.gate.set()
    assert len(await first) == 8
    await bench.nothing_is_left()


@in_virtual_time
async def test_a_cancellation_does_not_keep_the_cache_from_being_released() -> None:
    bench = Bench()
    releasing, may_go = asyncio.Event(), asyncio.Event()
    release = bench.model.release

    async def slow_release(cache: str) -> None:
        releasing.set()
        await may_go.wait()
        await release(cache)

    bench.model.release = slow_release  # type: ignore[method-assign]  # a model whose thread is busy
    running = asyncio.create_task(bench.answer("s"))
    await releasing.wait()
    running.cancel()
    await asyncio.sleep(1)
    may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bench.nothing_is_left()


@pytest.mark.parametrize(
    "failure", [EngineError("out of memory"), LocalProtocolError("a bug"), RuntimeError("a surprise")]
)
@in_virtual_time
async def test_whatever_a_pass_fails_with_ends_the_session_and_frees_the_model(failure: Exception) -> None:
    bench = Bench()
    bench.failure = failure
    with pytest.raises(type(failure), match=str(failure)):
        await bench.runner("s", lambda emit: None, channel=bench.channel).run()
    if isinstance(failure, EngineError):
        assert bench.channel.said[-1] == f"close {NODE}"
    await bench.nothing_is_left()


@in_virtual_time
async def test_a_session_ended_by_what_it_emits_asks_for_nothing_more() -> None:
    """The stop string: what is left of the round's instructions must not speak, run or finish anything."""
    bench = Bench()
    emits: list[Emit] = []

    def stop_after_two(emit: Emit) -> None:
        emits.append(emit)
        if len(emits) == 2:
            runner.cancel()

    runner = bench.runner("s", stop_after_two, channel=bench.channel)
    assert await runner.run() is FinishReason.CANCELLED
    assert len(emits) == 2
    assert len(bench.model.batches) == 2
    runner.cancel()
    runner.leave(NODE)
    runner.join(NODE, 0, "lease-2")
    assert len(bench.model.batches) == 2
    await bench.nothing_is_left()


@in_virtual_time
async def test_a_session_cancelled_by_its_very_last_tokens_has_finished() -> None:
    bench = Bench()
    runner = bench.runner("s", lambda emit: runner.cancel(), count=1, channel=bench.channel)
    assert await runner.run() is FinishReason.LENGTH
    await bench.nothing_is_left()


@in_virtual_time
async def test_whoever_cannot_take_the_tokens_does_not_leave_a_session_behind() -> None:
    bench = Bench()

    def broken(emit: Emit) -> None:
        raise RuntimeError("the tokenizer failed")

    with pytest.raises(RuntimeError, match="tokenizer"):
        await bench.runner("s", broken, channel=bench.channel).run()
    await bench.nothing_is_left()


@in_virtual_time
async def test_sessions_share_every_pass() -> None:
    bench = Bench()
    answers = await asyncio.gather(*(bench.answer(name) for name in "abc"))
    assert answers == [target_alone(bench.model, PROMPT, 8, Sampling())] * 3
    assert ["".join(segment.cache for segment in batch) for batch in bench.model.batches] == ["abc"] * 8


@in_virtual_time
async def test_drafts_that_come_while_others_have_the_model_are_in_the_next_pass() -> None:
    bench = Bench()
    expected = target_alone(bench.model, PROMPT, 8, Sampling())
    bench.gate.clear()
    first = asyncio.create_task(bench.answer("first"))
    await bench.begun.wait()
    emits: list[Emit] = []
    runner = bench.runner("s", emits.append, channel=bench.channel)
    second = asyncio.create_task(runner.run())
    await asyncio.sleep(1)
    runner.feed(DraftArrived(NODE, 3, prefix_hash("s", PROMPT), tuple(expected[:5]), (), (), 0.0))
    bench.gate.set()
    await asyncio.gather(first, second)
    assert [segment.cache for segment in bench.model.batches[1]] == ["s", "first"]
    assert len(emits[0].tokens) == 6


@in_virtual_time
async def test_a_failing_pass_fails_each_session_in_it_and_one_that_comes_after_lives() -> None:
    bench = Bench()
    bench.failure = EngineError("out of memory")
    results = await asyncio.gather(*(bench.answer(name) for name in "ab"), return_exceptions=True)
    assert [str(result) for result in results] == ["out of memory"] * 2
    assert results[0] is not results[1]
    await bench.nothing_is_left()


@pytest.mark.parametrize("seed", range(20))
@in_virtual_time
async def test_under_any_schedule_every_answer_is_that_of_the_rule(seed: int) -> None:
    """Sessions come, are drafted for well and badly, are cancelled; what is left is exact, and nothing else is left."""
    rng = random.Random(seed)
    bench = Bench(seconds=lambda: rng.choice((0.01, 0.02, 0.03)))
    drafter = ScriptedModel(1, drift=0.3, before_forward=lambda batch: asyncio.sleep(0.01))
    if seed % 2:
        bench.engine = Engine(bench.model, 4, bench.knowledge, drafter)
    sampling = Sampling(temperature=rng.choice((0.0, 0.8)))
    expected = target_alone(bench.model, PROMPT, 24, sampling)

    async def session(name: str) -> list[TokenId] | None:
        await asyncio.sleep(rng.uniform(0.0, 0.2))
        tokens: list[TokenId] = []
        spec = SessionSpec(SessionId(name), PROMPT, SEED, sampling, 256, 24)
        answer = SessionRunner(
            TargetSession(spec, None, bench.knowledge, local=bench.engine.draft_reach),
            *(bench.engine, bench.channel, lambda emit: tokens.extend(t.token for t in emit.tokens), LoopClock()),
        )
        running = asyncio.create_task(answer.run())
        while not running.done():
            await asyncio.sleep(rng.uniform(0.0, 0.05))
            chance = rng.random()
            if chance < 0.03:
                rng.choice((running.cancel, answer.cancel))()
            elif not running.done():
                right = expected[len(tokens) : len(tokens) + rng.randint(0, 6)]
                draft = tuple(token if rng.random() < 0.8 else 0 for token in right)
                prefix = (*PROMPT, *tokens)
                answer.feed(DraftArrived(NODE, len(prefix), prefix_hash(name, prefix), draft, (), (), 0.0))
        await asyncio.wait([running])
        return None if running.cancelled() or running.result() is FinishReason.CANCELLED else tokens

    answers = await asyncio.gather(*(session(f"s{n}") for n in range(6)))
    assert all(answer in (None, expected) for answer in answers)
    assert expected in answers
    assert bench.model.caches == drafter.caches == {}
    assert max(map(len, bench.model.batches)) > 1
    assert bool(drafter.batches) == bool(seed % 2)
