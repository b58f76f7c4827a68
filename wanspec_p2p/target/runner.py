"""Carries out one session's instructions. The one place of a session that awaits.

An instruction may end the session while later ones of the same list are still to come (`Emit` meets a stop string):
those find no drafter to speak to and nobody who waits for the model, and change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import EngineError, LocalProtocolError
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
from wanspec_p2p.target.engine import Engine
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

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None: ...

    def close_session(self, runner: SessionRunner, drafter: PeerId) -> None: ...


class SessionRunner:
    """Runs a session to its end.

    Args:
        channel: None for a session that nobody drafts for.
        emit: takes the tokens as they are settled; must not block.
        local: the target's own drafter, where the session is to use one.
    """

    def __init__(
        self,
        session: TargetSession,
        engine: Engine,
        channel: DraftChannel | None,
        emit: Callable[[Emit], None],
        clock: Clock,
        local: Engine | None = None,
    ) -> None:
        self.session = session
        self.leases: dict[PeerId, str] = {}  # of everyone who drafted here, also of those who left
        self._engine, self._channel, self._emit, self._clock = engine, channel, emit, clock
        self._local = local
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
            for engine in filter(None, (self._engine, self._local)):
                await _to_its_end(asyncio.ensure_future(engine.model.release(self.session.spec.session)))
        if self._failure is not None:
            raise EngineError(self._failure)
        assert self._reason is not None
        return self._reason

    async def _round(self) -> None:
        async with self._engine.turn():
            if self._over:
                return
            instructions = self.session.handle(ModelFree(self._clock.monotonic()))
            match instructions:
                case [RunLocalPass(segment)]:
                    local: Segment | None = segment
                case _:
                    local = None
                    outcome = await self._pass(instructions)
        self.feed(outcome if local is None else await self._local_pass(local))

    async def _local_pass(self, segment: Segment) -> TargetEvent:
        """Off the target's turn: meanwhile its model is free for other sessions."""
        assert self._local is not None
        async with self._local.turn():
            forward = asyncio.ensure_future(self._local.model.forward([segment]))
            await _to_its_end(forward)
        try:
            (rows,) = forward.result()
        except EngineError as error:
            log.error("the target's own drafter failed: the session goes on without it", error=str(error))
            return LocalFailed(str(error), self._clock.monotonic())
        return LocalDrafted(list(rows), self._clock.monotonic())

    async def _pass(self, instructions: list[TargetInstruction]) -> TargetEvent:
        (segment,) = (i.segment for i in instructions if isinstance(i, RunPass))
        forward = asyncio.ensure_future(self._engine.model.forward([segment]))
        try:
            await asyncio.sleep(0)  # let it reach the model before the noise takes the processor
            self._prepare(instructions)
        finally:
            # A pass cannot be interrupted: whatever happens to this task, its turn and its cache last as long.
            await _to_its_end(forward)
        try:
            (rows,) = forward.result()
        except EngineError as error:
            return ModelFailed(str(error), self._clock.monotonic())
        return Verified(list(rows), self._clock.monotonic())

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
            case (
                RunPass() | RunLocalPass() | PrepareNoise()
            ):  # only a ModelFree brings these, and _round carries them out
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
        self._over = True
        self._wake.set()


async def _to_its_end(task: asyncio.Future[Any]) -> None:
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
