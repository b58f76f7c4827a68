from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.scripted_models import ScriptedModel
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import EngineError
from wanspec_p2p.models.base import Rows
from wanspec_p2p.protocol import limits
from wanspec_p2p.speculation.allotment import Place, Wish
from wanspec_p2p.speculation.pace import LONG_PROMPT
from wanspec_p2p.speculation.tree import ROOT
from wanspec_p2p.target.engine import MAX_ROWS, SLOW_PASS_SECONDS, Engine, Turn
from wanspec_p2p.types import Segment


class Bench:
    """An engine whose passes take a second each."""

    def __init__(self, *, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.failure: Exception | None = None
        self.model = ScriptedModel(1, before_forward=self._before)
        self.engine = Engine(self.model, slots=4)

    async def _before(self, batch: Sequence[Segment]) -> None:
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure

    @property
    def passes(self) -> list[str]:
        return ["".join(segment.cache for segment in batch) for batch in self.model.batches]

    async def step(self, name: str, *, tokens: int = 1, tree: int = 0) -> Rows | None:
        segment = Segment(name, 0, (), (1,) * tokens, (2,) * tree, (-1,) * tree)
        return await self.engine.take_part(lambda turn: segment)

    def ask(self, name: str, *, tokens: int = 1) -> asyncio.Task[Rows | None]:
        """Ask now; whoever is asked for after this comes behind."""
        return asyncio.create_task(self.step(name, tokens=tokens))

    async def idle(self) -> None:
        """A moment after its last pass the engine has seen that nobody wants another."""
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_who_asks_while_a_pass_runs_is_in_the_next_in_the_order_of_asking() -> None:
    bench = Bench()
    first = bench.ask("a")
    await asyncio.sleep(0.5)
    others = [bench.ask(name) for name in "cbd"]
    await asyncio.gather(first, *others)
    assert bench.passes == ["a", "cbd"]
    assert now() == 2.0


@in_virtual_time
async def test_those_of_a_pass_are_together_in_the_next_and_nobody_starves() -> None:
    bench = Bench()

    async def session(name: str) -> None:
        for _ in range(3):
            await bench.step(name)

    await asyncio.gather(*map(session, "abc"))
    assert bench.passes == ["abc"] * 3


@in_virtual_time
async def test_a_free_model_begins_at_once_and_waits_for_nobody() -> None:
    bench = Bench()
    for turn in range(3):
        await bench.step("a")
        assert now() == turn + 1.0
    await bench.idle()


@in_virtual_time
async def test_each_gets_the_rows_of_its_own_segment() -> None:
    bench = Bench()
    found = await asyncio.gather(bench.step("a", tree=3), bench.step("b"), bench.step("c", tokens=5, tree=1))
    assert [len(rows) for rows in found if rows is not None] == [4, 1, 2]
    assert found[2] is not None
    assert (found[2][0] == bench.model.row((1,) * 5)).all()
    assert bench.passes == ["abc"]


@in_virtual_time
async def test_what_to_run_is_decided_when_the_pass_begins_and_all_of_it_are_told_the_same_turn() -> None:
    bench = Bench()
    begun: list[tuple[float, str, Turn]] = []

    async def session(name: str) -> None:
        def begin(turn: Turn) -> Segment:
            begun.append((now(), name, turn))
            return Segment(name, 0, (), (1,))

        await bench.engine.take_part(begin)

    first = asyncio.create_task(session("a"))
    await asyncio.sleep(0.5)
    await asyncio.gather(first, session("b"), session("c"))
    (_, _, one), (_, _, two), _ = begun
    assert begun == [(0.0, "a", one), (1.0, "b", two), (1.0, "c", two)]
    assert one.number != two.number


@in_virtual_time
async def test_who_has_nothing_to_run_leaves_the_pass_to_the_others_at_once() -> None:
    bench = Bench()
    left = asyncio.create_task(bench.engine.take_part(lambda turn: None))
    stayed = bench.ask("a")
    assert await left is None
    assert now() == 0.0
    assert await stayed is not None
    assert bench.passes == ["a"]


@in_virtual_time
async def test_whoever_fails_to_begin_or_to_use_the_time_fails_alone() -> None:
    bench = Bench()

    def broken(turn: object = None) -> Any:
        raise RuntimeError("a bug")

    begin = asyncio.create_task(bench.engine.take_part(broken))
    meanwhile = asyncio.create_task(bench.engine.take_part(lambda turn: Segment("b", 0, (), (1,)), broken))
    with_them = bench.ask("a")
    assert await with_them is not None
    for failed in (begin, meanwhile):
        with pytest.raises(RuntimeError, match="a bug"):
            await failed
    assert bench.passes == ["ba"]


@in_virtual_time
async def test_a_pass_is_over_before_the_trouble_of_one_that_shared_it_is_told() -> None:
    """Who is told releases its cache, and the pass writes to it."""
    bench = Bench()

    def broken() -> Iterator[None]:
        yield
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await bench.engine.take_part(lambda turn: Segment("a", 0, (), (1,)), broken)
    assert now() == 1.0
    await bench.idle()


@in_virtual_time
async def test_the_time_of_a_pass_is_used_while_it_runs() -> None:
    bench = Bench()
    used: list[float] = []

    def use() -> Iterator[None]:
        used.append(now())
        yield
        used.append(now())

    await bench.engine.take_part(lambda turn: Segment("a", 0, (), (1,)), use)
    assert used == [0.0, 0.0]
    assert now() == 1.0
    await bench.idle()


@in_virtual_time
async def test_what_is_done_meanwhile_ends_with_the_pass_and_everybody_has_a_turn() -> None:
    bench = Bench()
    steps: list[str] = []
    ended = asyncio.Event()

    def use(name: str, ends_at: int | None = None) -> Iterator[None]:
        for step in itertools.count():
            steps.append(f"{name}{step}")
            if step == ends_at:
                ended.set()
            yield

    async def until_ended(batch: Sequence[Segment]) -> None:
        await ended.wait()

    bench.model.before_forward = until_ended
    uses = {"a": use("a"), "b": use("b", ends_at=2), "c": use("c")}
    parts = [
        bench.engine.take_part(lambda turn, name=name: Segment(name, 0, (), (1,)), lambda use=use: use)  # type: ignore[misc]  # mypy cannot infer these
        for name, use in uses.items()
    ]
    assert all(rows is not None for rows in await asyncio.gather(*parts))
    assert steps[:8] == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2"]
    assert len(steps) < 30, "the pass is over: what is left of the steps is left out"
    await bench.idle()


@in_virtual_time
async def test_where_no_pass_can_be_made_up_nobody_waits_for_one() -> None:
    bench = WithDrafter()

    def broken(wishes: Sequence[Wish], most: int) -> list[int]:
        raise RuntimeError("a bug")

    verification_rows, bench.plan.verification_rows = bench.plan.verification_rows, broken  # type: ignore[method-assign]  # on purpose
    sessions = [asyncio.create_task(bench.session(name)) for name in "ab"]
    for session in sessions:
        with pytest.raises(RuntimeError, match="a bug"):
            await session
    bench.plan.verification_rows = verification_rows  # type: ignore[method-assign]  # as above
    await bench.session("c")
    assert bench.order == ["verify c"]
    await bench.idle()


@pytest.mark.parametrize("failure", [EngineError("out of memory"), RuntimeError("a surprise")])
@in_virtual_time
async def test_a_pass_that_fails_fails_for_all_in_it_and_for_nobody_else(failure: Exception) -> None:
    bench = Bench()
    bench.failure = failure
    together = [bench.ask(name) for name in "ab"]
    await asyncio.sleep(0.5)
    later = bench.ask("c")
    await asyncio.wait(together)
    bench.failure = None
    assert now() == 1.0
    for task in together:
        with pytest.raises(type(failure), match=str(failure)):
            await task
    assert await later is not None


@in_virtual_time
async def test_one_cancelled_in_a_pass_ends_with_it_and_the_others_get_their_rows() -> None:
    bench = Bench()
    one, other = bench.ask("a"), bench.ask("b")
    await asyncio.sleep(0.25)
    for _ in range(3):
        one.cancel()
        await asyncio.sleep(0.1)
    assert not one.done()
    assert await other is not None
    with pytest.raises(asyncio.CancelledError):
        await one
    assert now() == 1.0


@in_virtual_time
async def test_one_cancelled_while_it_waits_is_in_no_pass_and_goes_at_once() -> None:
    bench = Bench()
    first = bench.ask("a")
    await asyncio.sleep(0.5)
    waiting, behind = bench.ask("b"), bench.ask("c")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert now() == 0.5
    await asyncio.gather(first, behind)
    assert bench.passes == ["a", "c"]


@in_virtual_time
async def test_one_cancelled_in_the_moment_its_pass_begins_is_left_out() -> None:
    bench = Bench()
    task, other = asyncio.create_task(bench.step("a")), asyncio.create_task(bench.step("b"))
    await asyncio.sleep(0)
    task.cancel()
    assert await other is not None
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.passes == ["b"]


@in_virtual_time
async def test_a_full_pass_leaves_the_rest_to_the_next() -> None:
    bench = Bench()
    names = "abcde"
    await asyncio.gather(*(bench.step(name, tree=MAX_ROWS // 2 - 1) for name in names))
    assert bench.passes == ["ab", "cd", "e"]


@in_virtual_time
async def test_a_long_prompt_is_read_in_a_pass_of_its_own_when_its_turn_has_come() -> None:
    bench = Bench()
    asked = [bench.ask("a"), bench.ask("b", tokens=LONG_PROMPT)]
    asked += [bench.ask("L", tokens=LONG_PROMPT + 1), bench.ask("c"), bench.ask("d")]
    await asyncio.gather(*asked)
    assert bench.passes == ["ab", "L", "cd"]


@in_virtual_time
async def test_a_long_prompt_that_waits_for_its_pass_can_be_cancelled() -> None:
    bench = Bench()
    asked = [bench.ask("a"), bench.ask("L", tokens=LONG_PROMPT + 1), bench.ask("b")]
    await asyncio.sleep(0.5)
    asked[1].cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert bench.passes == ["a", "b"]


def wish(*gains: float, candidates: Sequence[float] = ()) -> Wish:
    return Wish(candidates, 63, [Place((ROOT,), (gain,)) for gain in gains])


class Planned:
    """Draft passes are worth it where all together would gain more than a token; every candidate is worth its row."""

    def verification_rows(self, wishes: Sequence[Wish], most: int) -> list[int]:
        self.room = most
        return [len(wish.candidates) for wish in wishes]

    def draft_places(self, wishes: Sequence[Wish], most: int) -> list[int]:
        gains = [sum(sum(place.chances) for place in wish.places) for wish in wishes]
        return [int(gain > 0.0 and sum(gains) > 1.0) for gain in gains]


class WithDrafter(Bench):
    """Its drafter's passes take a tenth."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = ScriptedModel(1, before_forward=self._draft)
        self.drafting_fails = False
        self.order: list[str] = []
        self.plan = Planned()
        self.engine = Engine(self.model, 4, self.plan, self.drafter)

    async def _draft(self, batch: Sequence[Segment]) -> None:
        await asyncio.sleep(0.1)
        self.order.append("draft " + "".join(segment.cache for segment in batch))
        if self.drafting_fails:
            raise EngineError("out of memory")

    async def _before(self, batch: Sequence[Segment]) -> None:
        await super()._before(batch)
        self.order.append("verify " + "".join(segment.cache for segment in batch))

    async def session(self, name: str, *gains: float) -> None:
        """What each further draft pass would gain; when a verification is over, so is the session."""
        left = list(gains)
        verified = False

        def begin(turn: Turn) -> Segment | None:
            nonlocal verified
            verified = not turn.drafting
            if turn.drafting:
                left.pop(0)
            return Segment(name, 0, (), (1,))

        while not verified:
            assert await self.engine.take_part(begin, wish=lambda: wish(*left[:1])) is not None
            await self.engine.release(name)


@in_virtual_time
async def test_a_drafter_has_its_turns_before_the_verification_that_all_are_in() -> None:
    bench = WithDrafter()
    await asyncio.gather(bench.session("a", 2.0, 0.6), bench.session("b", 0.6, 0.6), bench.session("c"))
    assert bench.order == ["draft ab", "draft ab", "verify cab"]
    await bench.idle()
    assert now() == pytest.approx(1.2)
    assert bench.model.caches == bench.drafter.caches == {}


@in_virtual_time
async def test_what_one_would_gain_is_not_worth_the_time_of_others() -> None:
    bench = WithDrafter()
    await asyncio.gather(bench.session("a", 0.9), bench.session("b"), bench.session("c"))
    assert bench.order == ["verify abc"]
    await bench.idle()


@in_virtual_time
async def test_a_drafter_that_fails_fails_those_in_its_pass_alone() -> None:
    bench = WithDrafter()
    bench.drafting_fails = True
    failing, other = asyncio.create_task(bench.session("a", 2.0)), asyncio.create_task(bench.session("b"))
    with pytest.raises(EngineError, match="out of memory"):
        await failing
    await other
    assert bench.order == ["draft a", "verify b"]
    await bench.idle()


@in_virtual_time
async def test_everyone_is_told_its_share_of_the_pass() -> None:
    bench = WithDrafter()
    turns: dict[str, Turn] = {}

    def begin(name: str, turn: Turn) -> Segment:
        turns[name] = turn
        return Segment(name, 0, (), (1,))

    await asyncio.gather(
        bench.engine.take_part(partial(begin, "a"), wish=lambda: wish(candidates=(0.9, 0.5))),
        bench.engine.take_part(partial(begin, "b")),
        bench.engine.take_part(partial(begin, "c"), wish=lambda: wish(2.0)),
    )
    assert turns == {"c": Turn(1, True, 1), "a": Turn(2, False, 2), "b": Turn(2, False, 0)}
    assert bench.plan.room == MAX_ROWS - 2, "everyone has a row for its last token"
    await bench.idle()


@in_virtual_time
async def test_without_a_plan_everyone_has_what_it_likes() -> None:
    bench, shares = Bench(), list[int | None]()

    def begin(turn: Turn) -> Segment:
        shares.append(turn.share)
        return Segment("a", 0, (), (1,))

    await bench.engine.take_part(begin, wish=lambda: wish(2.0, candidates=(0.9, 0.5)))
    assert shares == [None]
    await bench.idle()


@in_virtual_time
async def test_who_cannot_say_what_it_wishes_fails_alone() -> None:
    bench = WithDrafter()

    def broken() -> Wish:
        raise RuntimeError("a bug")

    failing = asyncio.create_task(bench.engine.take_part(lambda turn: None, wish=broken))
    await bench.session("a", 2.0)
    with pytest.raises(RuntimeError, match="a bug"):
        await failing
    assert bench.order == ["draft a", "verify a"]
    await bench.idle()


@in_virtual_time
async def test_who_is_cancelled_while_it_waits_for_the_drafters_turn_to_end_is_gone() -> None:
    bench = WithDrafter()
    drafting, waiting = asyncio.create_task(bench.session("a", 2.0)), asyncio.create_task(bench.session("b"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(drafting, waiting, return_exceptions=True)
    assert bench.order == ["draft a", "verify a"]
    await bench.idle()


@in_virtual_time
async def test_slots_are_counted_and_given_back_whatever_happens() -> None:
    engine = Engine(ScriptedModel(1), slots=2)
    leave = asyncio.Event()

    async def session(fail: bool) -> None:
        async with engine.slot():
            await leave.wait()
            if fail:
                raise ValueError("a session's own trouble")

    tasks = [asyncio.create_task(session(fail)) for fail in (True, False, False, False)]
    await asyncio.sleep(0)
    assert (engine.serving, engine.queued, engine.full) == (2, 2, True)
    tasks[3].cancel()
    await asyncio.sleep(0)
    assert (engine.serving, engine.queued) == (2, 1)
    leave.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, type(None), type(None), asyncio.CancelledError]
    assert (engine.serving, engine.queued, engine.full) == (0, 0, False)


@in_virtual_time
async def test_a_pass_that_takes_long_is_in_the_log_while_it_still_runs() -> None:
    bench = Bench(seconds=SLOW_PASS_SECONDS + 1)
    with capture_logs() as logs:
        asked = [bench.ask(name) for name in "ab"]
        await asyncio.sleep(SLOW_PASS_SECONDS + 0.5)
        assert [(line["log_level"], line["in_this_pass"]) for line in logs] == [("warning", 2)]
        await asyncio.gather(*asked)
        bench.seconds = 1.0
        await bench.step("a")
        await asyncio.sleep(SLOW_PASS_SECONDS)
    assert len(logs) == 1


@pytest.mark.parametrize("context", [64, limits.MAX_PROMPT_TOKENS + 1])
def test_a_context_is_no_longer_than_messages_can_carry(context: int) -> None:
    engine = Engine(ScriptedModel(1, context=context), slots=1)
    assert engine.context == min(context, limits.MAX_PROMPT_TOKENS)
