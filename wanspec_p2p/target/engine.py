"""One model, many sessions: whoever wants the model while a pass runs is in the next one, in the order they asked.

What a session verifies is decided when the pass is about to begin, not when it asked: drafts that arrived meanwhile are
in. A model that is free begins at once; nobody is waited for (docs/decisions/0015-several-sessions-in-one-pass.md).

A drafter beside the model has turns of its own, before verifications, while that makes more of the time of all who wait
(docs/decisions/0023-the-target-drafts-for-all-or-nobody.md). What each session has of a pass is decided for all of them
at once (docs/decisions/0024-rows-are-allotted-to-all-sessions-at-once.md).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog

from wanspec_p2p.models.base import LanguageModel, Rows
from wanspec_p2p.protocol import limits
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.local import Reach
from wanspec_p2p.speculation.pace import LONG_PROMPT
from wanspec_p2p.types import Segment

__all__ = ["Engine", "Plan", "Turn", "to_its_end"]

MAX_ROWS = 512
"""Tokens and tree nodes: a pass of so many takes no more sessions in. The logits of all are in memory at once."""
SLOW_PASS_SECONDS = 30.0
"""A pass cannot be interrupted and everyone waits for it, so one that takes this long is worth a line in the log."""

_LAST = object()

log = structlog.get_logger(__name__)


class Turn(NamedTuple):
    """A pass that is about to begin: of the target's model, or of its own drafter.

    Attributes:
        share: how much of its wish a session has in it; None where nobody asked for one.
    """

    number: int
    drafting: bool
    share: int | None = None


class Plan(Protocol):
    """Who has how much of a pass, by what all who wait wish for: an answer for each wish, in their order."""

    def verification_rows(self, wishes: Sequence[Wish], most: int) -> list[int]:
        """Candidates of each in the next verification, at most so many together."""
        ...

    def draft_places(self, wishes: Sequence[Wish], most: int) -> list[int]:
        """Places of each in a pass of the target's own drafter before it, in at most so many rows; all 0: none."""
        ...


@dataclass(eq=False, slots=True)
class _Request:
    """One session's wish to take part in a pass."""

    begin: Callable[[Turn], Segment | None]
    meanwhile: Callable[[], Iterator[None]]
    wish: Callable[[], Wish]
    rows: asyncio.Future[Rows | None]
    segment: Segment | None = None
    forward: asyncio.Future[list[Rows]] | None = None  # the pass it is in
    fault: Exception | None = None  # of its own, told when the pass is over

    def steps(self) -> Iterator[None]:
        """`meanwhile`, its own trouble kept."""
        try:
            yield from self.meanwhile()
        except Exception as error:
            self.fault = error

    def fail(self, error: Exception) -> None:
        if not self.rows.done():
            self.rows.set_exception(error)

    def succeed(self, rows: Rows | None) -> None:
        if self.fault is not None:
            self.fail(self.fault)
        elif not self.rows.done():
            self.rows.set_result(rows)


class Engine:
    """Args:
    slots: sessions served at once.
    plan: shares passes out; without one, every session has all it could use.
    drafter: the target's own, on the same machine; it is run as `plan` says.
    """

    def __init__(
        self, model: LanguageModel, slots: int, plan: Plan | None = None, drafter: LanguageModel | None = None
    ) -> None:
        self.model, self.drafter, self._plan = model, drafter, plan
        self._asked: deque[_Request] = deque()
        self._passes: asyncio.Task[None] | None = None  # while there is something to run
        self._turn = 0  # names the pass that begins, or runs
        self._slots = asyncio.Semaphore(slots)
        self.serving = 0  # sessions that have a slot
        self.queued = 0  # sessions that wait for one

    @property
    def context(self) -> int:
        """Positions one session may fill: the model's, and no more than messages can carry."""
        return min(self.model.info.context, limits.MAX_PROMPT_TOKENS)

    @property
    def draft_reach(self) -> Reach | None:
        """What the target's own drafter can take in; None where there is none."""
        return None if self.drafter is None else Reach(self.drafter.info.context, self.drafter.info.vocab_size)

    @property
    def full(self) -> bool:
        return self._slots.locked()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place among the sessions served at once; their caches take memory."""
        self.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self.queued -= 1
        self.serving += 1
        try:
            yield
        finally:
            self.serving -= 1
            self._slots.release()

    async def take_part(
        self,
        begin: Callable[[Turn], Segment | None],
        meanwhile: Callable[[], Iterator[None]] = lambda: iter(()),
        wish: Callable[[], Wish] = Wish,
    ) -> Rows | None:
        """Run one segment in the next pass. Cancelled while that runs, it ends only when the pass has.

        Args:
            begin: called just before a pass begins; None leaves it to the others. If it was the drafter's, the session
                waits for the next.
            meanwhile: what to do while it runs, in steps; those that are left when it ends are left out.
            wish: what it could do with a pass; called when one is made up, right before `begin`.

        Returns:
            The rows of the segment, None where there was none.

        Raises:
            EngineError: the pass failed, for everyone in it.
            Exception: whatever else the model, `begin` or `meanwhile` raised.
        """
        request = _Request(begin, meanwhile, wish, asyncio.get_running_loop().create_future())
        self._asked.append(request)
        if self._passes is None:
            self._passes = asyncio.create_task(self._run_passes(), name="passes")
        try:
            return await request.rows
        except asyncio.CancelledError:
            if request.forward is not None:
                await to_its_end(request.forward)
            elif request in self._asked:
                self._asked.remove(request)
            raise

    async def release(self, cache: str) -> None:
        """What the model and its drafter hold for a session may go."""
        await self.model.release(cache)
        if self.drafter is not None:
            await self.drafter.release(cache)

    async def _run_passes(self) -> None:
        """Until nobody wants one any more."""
        try:
            while self._asked:
                wishes = self._wishes()
                if self.drafter is not None and (batch := self._collect_drafts(wishes)):
                    await self._run(batch, self.drafter)
                elif batch := self._collect(wishes):
                    await self._run(batch, self.model)
                # Those who took part settle what they got, and ask again, before the next pass is made up.
                await asyncio.sleep(0)
        except Exception as error:
            log.exception("no pass could be made up: this is a bug")
            for request in self._asked:
                request.fail(error)
            self._asked.clear()
        finally:
            self._passes = None
            for request in self._asked:  # none, but where this task was cancelled: nobody else would tell them
                request.rows.cancel()

    def _wishes(self) -> dict[_Request, Wish]:
        """Of those who may be in the next pass; who cannot say what it wishes fails alone."""
        wishes: dict[_Request, Wish] = {}
        for request in itertools.islice(self._asked, MAX_ROWS):
            if request.segment is None and not request.rows.done():
                try:
                    wishes[request] = request.wish()
                except Exception as error:  # its own trouble: the others go on
                    request.fail(error)
        return wishes

    def _collect(self, wishes: Mapping[_Request, Wish]) -> list[_Request]:
        """Who is in the next pass: in order, until it is full. A long prompt is read in a pass of its own."""
        self._turn += 1
        shares = self._shares(wishes, drafting=False)
        batch: list[_Request] = []
        width = 0
        while self._asked and width < MAX_ROWS:
            request = self._asked[0]
            turn = Turn(self._turn, False, shares.get(request))
            segment = request.segment or self._begun(request, turn)
            if segment is not None:
                long = len(segment.tokens) > LONG_PROMPT
                if long and batch:
                    break
                batch.append(request)
                width += MAX_ROWS if long else len(segment.tokens) + len(segment.tree)
            self._asked.popleft()
        return batch

    def _collect_drafts(self, wishes: Mapping[_Request, Wish]) -> list[_Request]:
        """Who is in the drafter's pass, where one comes before the next verification."""
        shares = self._shares(wishes, drafting=True)
        if not any(shares.values()):
            return []
        self._turn += 1
        batch: list[_Request] = []
        width = 0
        for request, share in shares.items():
            if width >= MAX_ROWS:
                break
            segment = self._begun(request, Turn(self._turn, True, share)) if share else None
            if segment is not None:
                batch.append(request)
                width += len(segment.tokens) + len(segment.tree)
                self._asked.remove(request)
        return batch

    def _shares(self, wishes: Mapping[_Request, Wish], *, drafting: bool) -> dict[_Request, int]:
        if self._plan is None:
            return {}
        every = list(wishes.values())
        if drafting:
            counts = self._plan.draft_places(every, MAX_ROWS)
        else:
            counts = self._plan.verification_rows(every, MAX_ROWS - len(every))
        return dict(zip(wishes, counts, strict=True))

    def _begun(self, request: _Request, turn: Turn) -> Segment | None:
        """Tell a session that its pass is about to begin; one without anything to verify has its answer at once."""
        if request.rows.done():  # cancelled, and not yet gone
            return None
        try:
            request.segment = request.begin(turn)
        except Exception as error:  # its own trouble: the others go on
            request.fail(error)
            return None
        if request.segment is None and not turn.drafting:
            request.succeed(None)
        return request.segment

    async def _run(self, batch: list[_Request], model: LanguageModel) -> None:
        segments = [request.segment for request in batch if request.segment is not None]
        forward = asyncio.ensure_future(model.forward(segments))
        for request in batch:
            request.forward = forward
        watch = asyncio.get_running_loop().call_later(SLOW_PASS_SECONDS, self._slow, len(batch))
        try:
            await self._use_the_time(batch, forward)
            await asyncio.wait([forward])
            for request, rows in zip(batch, forward.result(), strict=True):
                request.succeed(rows)
        except Exception as error:
            for request in batch:
                request.fail(error)
        finally:
            watch.cancel()

    async def _use_the_time(self, batch: list[_Request], forward: asyncio.Future[list[Rows]]) -> None:
        await asyncio.sleep(0)  # let the pass reach the model before anything takes the processor
        under_way = [request.steps() for request in batch]
        while under_way:  # a step of each in turn
            for steps in tuple(under_way):
                if forward.done():
                    return
                if next(steps, _LAST) is _LAST:
                    under_way.remove(steps)
                await asyncio.sleep(0)  # links and other tasks have their turn in between

    def _slow(self, sessions: int) -> None:
        log.warning(
            "a forward pass takes long: all sessions wait for it",
            seconds_so_far=SLOW_PASS_SECONDS,
            in_this_pass=sessions,
            serving=self.serving,
            queued=self.queued,
        )


async def to_its_end(task: asyncio.Future[Any]) -> None:
    """Wait until `task` is done, however often we are cancelled meanwhile; a cancellation is raised only then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # seen: where we were cancelled, nobody else looks at it
    if cancelled is not None:
        raise cancelled
