"""Carries out one session's instructions. The one place of a session that awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.speculation.events import (
    Cancelled,
    DrafterJoined,
    DrafterLeft,
    ModelFailed,
    ModelFree,
    Started,
    TargetEvent,
    Verified,
)
from wanspec_p2p.speculation.instructions import (
    CloseDraft,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunPass,
    SendVerdict,
    TargetInstruction,
)
from wanspec_p2p.speculation.target_session import TargetSession
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.types import FinishReason, PeerId, Segment

__all__ = ["DraftChannel", "SessionRunner"]


class DraftChannel(Protocol):
    """Where words to the drafters of a session go. No call may block; a peer that cannot keep up is dropped."""

    def begin(self, runner: SessionRunner) -> None:
        """The session takes drafters from now on."""
        ...

    def end(self, runner: SessionRunner) -> None: ...

    def open(self, runner: SessionRunner, instruction: OpenDraft) -> None: ...

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
        self._engine, self._channel, self._emit, self._clock = engine, channel, emit, clock
        self._model_wanted = False
        self._segment: Segment | None = None
        self._ended = asyncio.Event()
        self._wake = asyncio.Event()
        self._reason: FinishReason | None = None
        self._failure: str | None = None

    def feed(self, event: TargetEvent) -> None:
        for instruction in self.session.handle(event):
            self._carry_out(instruction)

    def join(self, drafter: PeerId, lane: int) -> None:
        self.feed(DrafterJoined(drafter, lane, self._clock.monotonic()))

    def leave(self, drafter: PeerId) -> None:
        self.feed(DrafterLeft(drafter, self._clock.monotonic()))

    def cancel(self) -> None:
        self.feed(Cancelled(self._clock.monotonic()))

    async def run(self) -> FinishReason:
        """Until the answer ends or is cancelled.

        Raises:
            EngineError: the model failed.
        """
        try:
            self.feed(Started(self._clock.monotonic()))
            if self._channel is not None:
                self._channel.begin(self)
            while not self._ended.is_set():
                await self._wake.wait()
                self._wake.clear()
                while self._model_wanted and not self._ended.is_set():
                    self._model_wanted = False
                    await self._round()
        finally:
            self.cancel()  # without effect on a session that has finished
            if self._channel is not None:
                self._channel.end(self)
            await self._engine.model.release(self.session.spec.session)
        if self._failure is not None:
            raise EngineError(self._failure)
        assert self._reason is not None
        return self._reason

    async def _round(self) -> None:
        async with self._engine.turn():
            if self._ended.is_set():
                return
            instructions = self.session.handle(ModelFree(self._clock.monotonic()))
            (segment,) = (i.segment for i in instructions if isinstance(i, RunPass))
            # A pass cannot be interrupted: where this task is cancelled, its cache must not be touched before it ends.
            forward = asyncio.ensure_future(self._engine.model.forward([segment]))
            try:
                await asyncio.sleep(0)  # let it reach the model before the noise takes the processor
                self._prepare(instructions)
                (rows,) = await asyncio.shield(forward)
                outcome: TargetEvent = Verified(list(rows), self._clock.monotonic())
            except EngineError as error:
                outcome = ModelFailed(str(error), self._clock.monotonic())
            except asyncio.CancelledError:
                await asyncio.wait([forward])
                forward.exception() if not forward.cancelled() else None
                raise
        self.feed(outcome)

    def _prepare(self, instructions: list[TargetInstruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, PrepareNoise):
                self.session.sampler.noise.prepare(instruction.positions)

    def _carry_out(self, instruction: TargetInstruction) -> None:
        match instruction:
            case RequestModel():
                self._model_wanted = True
                self._wake.set()
            case Emit():
                self._emit(instruction)
            case OpenDraft() | SendVerdict() | CloseDraft():
                self._say(instruction)
            case Finish(reason):
                self._reason = reason
                self._end()
            case Fail(reason):
                self._failure = reason
                self._end()
            case RunPass() | PrepareNoise():  # only a ModelFree brings these, and _round carries them out
                raise LocalProtocolError(f"{type(instruction).__name__} without a turn at the model")

    def _say(self, instruction: OpenDraft | SendVerdict | CloseDraft) -> None:
        if self._channel is None:  # nobody joined, so a session has nothing to say
            raise LocalProtocolError(f"{type(instruction).__name__} in a session without drafters")
        match instruction:
            case OpenDraft():
                self._channel.open(self, instruction)
            case SendVerdict():
                self._channel.verdict(self, instruction)
            case CloseDraft(drafter):
                self._channel.close_session(self, drafter)

    def _end(self) -> None:
        self._ended.set()
        self._wake.set()
