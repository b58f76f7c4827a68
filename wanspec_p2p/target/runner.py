"""Carries out one session's instructions. The one place of a session that awaits.

An instruction may end the session while later ones of the same list are still to come (`Emit` meets a stop string):
those find no drafter to speak to and nobody who waits for the model, and change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.events import (
    Cancelled,
    DrafterJoined,
    DrafterLeft,
    LocalDrafted,
    LocalFailed,
    ModelFailed,
    ModelFree,
    Started,
    TargetEvent,
    Verified,
)
from wanspec_p2p.speculation.instructions import (
    AnnounceVerdict,
    CloseDraft,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunLocalPass,
    RunPass,
    SendVerdict,
    TargetInstruction,
)
from wanspec_p2p.speculation.target_session import TargetSession
from wanspec_p2p.target.engine import Engine, Turn, to_its_end
from wanspec_p2p.types import FinishReason, PeerId, Segment

__all__ = ["DraftChannel", "SessionRunner"]

log = structlog.get_logger(__name__)


class DraftChannel(Protocol):
    """Where words to the drafters of a session go. No call may block; a peer that cannot keep up is dropped."""

    def begin(self, runner: SessionRunner) -> None:
        """The session takes drafters from now on."""
        ...

    def end(self, runner: SessionRunner) -> None: ...

    def open(self, runner: SessionRunner, instruction: OpenDraft) -> None: ...

    def announce(self, runner: SessionRunner, instruction: AnnounceVerdict) -> None: ...

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None: ...

    def close_session(self, runner: SessionRunner, drafter: PeerId) -> None: ...


class SessionRunner:
    """Runs a session to its end.

    Args:
        channel: None for a session that nobody drafts for.
        emit: takes the tokens as they are settled; must not block.
    """

    def __init__(
        self,
        session: TargetSession,
        engine: Engine,
        channel: DraftChannel | None,
        emit: Callable[[Emit], None],
        clock: Clock,
    ) -> None:
        self.session = session
        self.leases: dict[PeerId, str] = {}  # of everyone who drafted here, also of those who left
        self.rtts: dict[PeerId, float] = {}  # of the same, as last measured; in seconds
        self._engine, self._channel, self._emit, self._clock = engine, channel, emit, clock
        self._model_wanted = False
        self._wake = asyncio.Event()
        self._over = False
        self._reason: FinishReason | None = None
        self._failure: str | None = None

    def feed(self, event: TargetEvent) -> None:
        for instruction in self.session.handle(event):
            self._carry_out(instruction)

    def join(self, drafter: PeerId, lane: int, lease: str) -> None:
        """`lease` is the `jti` under which it drafts."""
        self.leases[drafter] = lease
        self.feed(DrafterJoined(drafter, lane, self._clock.monotonic()))

    def leave(self, drafter: PeerId) -> None:
        self.feed(DrafterLeft(drafter, self._clock.monotonic()))

    def cancel(self) -> None:
        self.feed(Cancelled(self._clock.monotonic()))

    async def run(self) -> FinishReason:
        """Until the answer ends or is cancelled. Whatever ends it, no pass runs any more and the cache is released.

        Raises:
            EngineError: the model failed.
        """
        try:
            self.feed(Started(self._clock.monotonic()))
            if self._channel is not None:
                self._channel.begin(self)
            while not self._over:
                await self._wake.wait()
                self._wake.clear()
                if self._model_wanted and not self._over:
                    self._model_wanted = False
                    await self._round()
        finally:
            self.cancel()  # without effect on a session that has finished
            if self._channel is not None:
                self._channel.end(self)
            await to_its_end(asyncio.ensure_future(self._engine.release(self.session.cache)))
        if self._failure is not None:
            raise EngineError(self._failure)
        assert self._reason is not None
        return self._reason

    async def _round(self) -> None:
        """A place in the next pass; what it is used for is decided when that begins."""
        plan: list[TargetInstruction] = []
        drafting = False
        thinking_since: float | None = None

        def wish() -> Wish:
            nonlocal thinking_since
            thinking_since = self._clock.monotonic()
            return self.session.wish(thinking_since)

        def begin(turn: Turn) -> Segment | None:
            nonlocal drafting
            # What is thought about a pass is part of what it takes.
            at = self._clock.monotonic() if thinking_since is None else thinking_since
            if not self._over:
                for instruction in self.session.handle(ModelFree(at, *turn)):
                    if isinstance(instruction, AnnounceVerdict):
                        self._say(instruction)
                    else:
                        plan.append(instruction)
            run = next((i for i in plan if isinstance(i, RunPass | RunLocalPass)), None)
            drafting = isinstance(run, RunLocalPass)
            return None if run is None else run.segment

        try:
            rows = await self._engine.take_part(begin, lambda: self._prepare(plan), wish)
        except Exception as error:
            if not drafting and not isinstance(error, EngineError):
                raise
            self.feed(self._failed(error, drafting))
            return
        if rows is None:
            return
        if not drafting:
            self.feed(Verified(list(rows), self._clock.monotonic()))
            return
        try:
            self.feed(LocalDrafted(list(rows), self._clock.monotonic()))
        except Exception as error:
            self.feed(self._failed(error, drafting))

    def _failed(self, error: Exception, drafting: bool) -> TargetEvent:
        """No answer needs the target's own drafter, whatever is wrong with it."""
        if not drafting:
            return ModelFailed(str(error), self._clock.monotonic())
        ours = not isinstance(error, EngineError)
        log.error("the target's own drafter failed: the session goes on without it", error=str(error), exc_info=ours)
        return LocalFailed(str(error), self._clock.monotonic())

    def _prepare(self, instructions: list[TargetInstruction]) -> Iterator[None]:
        """Row by row: one takes milliseconds, and a junk draft that goes deep must not hold everybody up."""
        for instruction in instructions:
            if isinstance(instruction, PrepareNoise):
                for position in instruction.positions:
                    self.session.sampler.noise.row(position)
                    yield

    def _carry_out(self, instruction: TargetInstruction) -> None:
        match instruction:
            case RequestModel():
                self._model_wanted = True
                self._wake.set()
            case Emit():
                self._emit(instruction)
            case OpenDraft() | AnnounceVerdict() | SendVerdict() | CloseDraft():
                self._say(instruction)
            case Finish(reason):
                self._reason = reason
                self._end()
            case Fail(reason):
                self._failure = reason
                self._end()
            case (
                RunPass() | RunLocalPass() | PrepareNoise()
            ):  # only a ModelFree brings these, and _round carries them out
                raise LocalProtocolError(f"{type(instruction).__name__} without a turn at the model")

    def _say(self, instruction: OpenDraft | AnnounceVerdict | SendVerdict | CloseDraft) -> None:
        if self._channel is None:  # nobody joined, so a session has nothing to say
            raise LocalProtocolError(f"{type(instruction).__name__} in a session without drafters")
        match instruction:
            case OpenDraft():
                self._channel.open(self, instruction)
            case AnnounceVerdict():
                self._channel.announce(self, instruction)
            case SendVerdict():
                self._channel.verdict(self, instruction)
            case CloseDraft(drafter):
                self._channel.close_session(self, drafter)

    def _end(self) -> None:
        self._over = True
        self._wake.set()
