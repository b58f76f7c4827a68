"""One model, many sessions: whenever the model is free, everyone who has something to run gets one segment of the pass.

Sessions wait in the order they asked, and each asks anew after its pass, which is round-robin. The sessions themselves
are pure (`wanspec_p2p.speculation.drafter_session`); what they ask for is carried out here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog

from node.row_shares import RowShares
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    PauseOver,
    SessionClosed,
    Started,
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
from wanspec_p2p.types import Device, Segment

__all__ = ["MAX_BATCH", "DraftingEngine", "Outlet", "Seat", "SessionCore"]

MAX_BATCH = 32
"""Segments in one pass: beyond it a small model gains nothing from company and every session waits longer."""
MAX_PAUSE_SECONDS = 60.0
ROWS = 8
FLOOR, CPU_FLOOR = 0.0005, 0.02
"""An accelerator's next pass costs its owner next to nothing; a CPU's takes time from everything else on it."""
FAILED = "the drafter's model failed"
"""What a target is told; what went wrong here is none of its business."""
CPU_ROWS = 4
"""The exact attention computes rows by fours (models.torch_attention.ROW_MULTIPLE)."""

log = structlog.get_logger(__name__)


class SessionCore(Protocol):
    """The rules of a session: a `DrafterSession`, or a probe."""

    def handle(self, event: DrafterEvent) -> list[DrafterInstruction]: ...


class Outlet(Protocol):
    """Where a session's words go. Neither call may block."""

    def draft(self, draft: SendDraft) -> None: ...

    def decline(self, reason: str) -> None:
        """The session cannot go on; nothing follows."""
        ...


class Seat:
    """One session's place at the engine: carries out its instructions and brings back what came of them."""

    def __init__(self, engine: DraftingEngine, core: SessionCore, cache: str, outlet: Outlet) -> None:
        self._engine, self._core, self._outlet = engine, core, outlet
        self.cache = cache
        self._flush: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()

    def feed(self, event: DrafterEvent) -> None:
        """An event for the session; without effect once it has ended."""
        if self.ended.is_set():
            return
        for instruction in self._core.handle(event):
            self._carry_out(instruction)

    def close(self) -> None:
        """End the session without a word to the target."""
        self.feed(SessionClosed(self._engine.now()))

    def _carry_out(self, instruction: DrafterInstruction) -> None:
        match instruction:
            case RequestModel():
                self._engine.wait_for_model(self)
            case RunPass(segment):
                self._engine.add_to_pass(self, segment)
            case SendDraft():
                self._outlet.draft(instruction)
            case StartFlushTimer(seconds):
                self._flush = asyncio.get_running_loop().call_later(seconds, self._flush_due)
            case StartPause(seconds):
                if self._pause is not None:
                    self._pause.cancel()
                self._pause = asyncio.get_running_loop().call_later(seconds, self._pause_over)
            case Abandon(reason):
                self._outlet.decline(reason)
            case Release():
                self._end()

    def _flush_due(self) -> None:
        self.feed(FlushDue(self._engine.now()))

    def _pause_over(self) -> None:
        self.feed(PauseOver(self._engine.now()))

    def _end(self) -> None:
        self.ended.set()
        for timer in filter(None, (self._flush, self._pause)):
            timer.cancel()
        self._engine.leave(self)


@dataclass(frozen=True, slots=True)
class _Pass:
    seat: Seat
    segment: Segment


class DraftingEngine:
    """Batches sessions onto one model. `run` is its only task and the only place that calls the model."""

    def __init__(self, model: LanguageModel, *, clock: Clock) -> None:
        self.model = model
        self._clock = clock
        self._names = (f"draft-{number}" for number in itertools.count())
        self._seats: dict[Seat, None] = {}  # in order, unlike a set
        self._waiting: deque[Seat] = deque()
        self._next_pass: list[_Pass] = []
        self._released: list[str] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._failures = 0
        self._paused_until = 0.0
        # A CPU takes rows by fours: fewer cost as much.
        self._shares = RowShares(self.batch, CPU_ROWS if model.info.device is Device.CPU else 1)

    @property
    def sessions(self) -> int:
        return len(self._seats)

    @property
    def batch(self) -> int:
        """Nodes that a session runs in a pass if it is alone: as many rows as cost no more than one."""
        return CPU_ROWS if self.model.info.device is Device.CPU else ROWS

    @property
    def floor(self) -> float:
        """Tokens less likely than this to be on the answer's path are left alone."""
        return CPU_FLOOR if self.model.info.device is Device.CPU else FLOOR

    @property
    def paused(self) -> str:
        """Why nothing new is taken on for now, so that a broken model is not tried in a loop; empty where it is."""
        return "the drafter's model failed a moment ago" if self.now() < self._paused_until else ""

    def now(self) -> float:
        return self._clock.monotonic()

    def cache_name(self) -> str:
        """A name no other session of this node has; targets choose session names, so those cannot serve."""
        return next(self._names)

    def seat(self, core: SessionCore, cache: str, outlet: Outlet) -> Seat:
        """Begin a session. `core` must run its segments in the cache of this name."""
        seat = Seat(self, core, cache, outlet)
        self._seats[seat] = None
        seat.feed(Started(self.now()))
        return seat

    async def run(self) -> None:
        """Run passes until `stop`; a pass that has begun is finished first."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while not self._stopping and (batch := self._collect()):
                await self._run(batch)
                await self._forget_caches()
            await self._forget_caches()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def wait_for_model(self, seat: Seat) -> None:
        self._waiting.append(seat)
        self._wake.set()

    def add_to_pass(self, seat: Seat, segment: Segment) -> None:
        self._next_pass.append(_Pass(seat, segment))
        self._wake.set()

    def leave(self, seat: Seat) -> None:
        self._seats.pop(seat, None)
        self._released.append(seat.cache)
        self._wake.set()

    def _collect(self) -> list[_Pass]:
        shares = iter(self._shares.of(min(len(self._waiting), MAX_BATCH)))
        while self._waiting and len(self._next_pass) < MAX_BATCH:
            # One after those who were counted takes the place of one that had nothing to run after all.
            self._waiting.popleft().feed(ModelFree(self.now(), share=next(shares, 1)))
        batch, self._next_pass = self._next_pass, []
        return batch

    async def _run(self, batch: list[_Pass]) -> None:
        segments, begun = [item.segment for item in batch], self.now()
        try:
            rows = await self.model.forward(segments)
        except EngineError as error:
            self._failed(batch, error)
            return
        except LocalProtocolError as error:
            await self._run_apart(batch, error)
            return
        self._failures = 0
        self._shares.measured(segments, self.now() - begun)
        for item, row in zip(batch, rows, strict=True):
            item.seat.feed(Drafted(list(row), self.now()))

    async def _run_apart(self, batch: list[_Pass], error: LocalProtocolError) -> None:
        """A segment contradicts its cache: a bug of ours, in one session alone. A refused pass has changed nothing."""
        if len(batch) > 1:
            for item in batch:
                await self._run([item])
            return
        log.error("a session asked for a pass that cannot be", error=str(error))
        batch[0].seat.feed(ModelFailed(FAILED, self.now()))

    def _failed(self, batch: list[_Pass], error: EngineError) -> None:
        self._failures += 1
        pause = min(2.0 ** min(self._failures, 10), MAX_PAUSE_SECONDS)
        self._paused_until = self.now() + pause
        log.error("the model failed", error=str(error), sessions_ended=len(batch), paused_seconds=pause)
        for item in batch:
            item.seat.feed(ModelFailed(FAILED, self.now()))

    async def _forget_caches(self) -> None:
        # Only between passes: a cache must not go while a pass writes to it.
        while self._released:
            await self.model.release(self._released.pop())
