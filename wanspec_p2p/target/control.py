"""The target's link to its coordinator: registered as long as it can be, reconnecting when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.closing import ends_a_service
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_target import Cancel, CoordinatorToTarget, Drafters, Generate, ReceiptsStored
from wanspec_p2p.protocol.target_to_coordinator import (
    DraftersWanted,
    RegisterTarget,
    TargetDrain,
    TargetHeartbeat,
    TargetMessage,
)
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.receipts import ReceiptBox
from wanspec_p2p.target.recruiting import Recruiter
from wanspec_p2p.target.requests import RequestDesk

__all__ = ["FINAL_REFUSALS", "Control", "Dial", "Outbox", "Sleep"]

Dial: TypeAlias = Callable[[], Awaitable[Link[TargetMessage, CoordinatorToTarget]]]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

FINAL_REFUSALS = frozenset(
    {
        CloseCode.NOT_ENROLLED,
        CloseCode.JOIN_REFUSED,
        CloseCode.VERSION_MISMATCH,  # on first contact; see `ends_a_service`
        CloseCode.REPLACED,  # two targets with one identity would otherwise throw each other out for ever
    }
)
MIN_HEARTBEAT, FIRST_HEARTBEAT, MAX_HEARTBEAT = 0.2, 2.0, 60.0
MAX_WAITING = 65_536
"""Messages that wait for the coordinator; one that reads this slowly is as good as gone."""

log = structlog.get_logger(__name__)


class Outbox:
    """Where the rest of the target leaves messages for the coordinator. Nothing is kept here while it is away:
    requests keep what they would say (docs/decisions/0018-a-broken-answer-is-asked-for-again.md), and receipts are sent
    again.

    Attributes:
        overflowed: a message was lost, so the link can be trusted no more.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[TargetMessage] | None = None
        self.overflowed = asyncio.Event()

    def say(self, message: TargetMessage) -> None:
        if self._waiting is None:
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self.overflowed.set()

    def open(self) -> asyncio.Queue[TargetMessage]:
        self._waiting = asyncio.Queue(MAX_WAITING)
        self.overflowed.clear()
        return self._waiting

    def close(self) -> None:
        self._waiting = None

    async def flushed(self, seconds: float) -> None:
        """Wait until everything said has been sent, for at most so many seconds."""
        if self._waiting is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._waiting.join()


class Control:
    """Args:
    registration: what this target says of itself, given the join secret to show.
    secret: the join secret; shown until the coordinator has taken us in.
    enrolled: it has taken us in before.
    joined: called with the pool's name each time it has.
    pool: None where this target takes no drafts.
    """

    def __init__(
        self,
        *,
        dial: Dial,
        registration: Callable[[str], RegisterTarget],
        secret: str,
        enrolled: bool,
        joined: Callable[[str], None],
        outbox: Outbox,
        desk: RequestDesk,
        pool: DrafterPool | None,
        recruiter: Recruiter,
        receipts: ReceiptBox,
        engine: Engine,
        new_id: Callable[[], str],
        backoff: Backoff,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._dial, self._registration, self._secret, self._joined = dial, registration, secret, joined
        self._outbox, self._desk, self._pool, self._recruiter = outbox, desk, pool, recruiter
        self._receipts, self._engine, self._new_id = receipts, engine, new_id
        self._backoff, self._clock, self._sleep = backoff, clock, sleep
        self._link: Link[TargetMessage, CoordinatorToTarget] | None = None
        self._heartbeat = FIRST_HEARTBEAT
        self._registered = False
        self._enrolled = enrolled
        self._scarcity: tuple[str, bool] | None = None  # why there are too few drafters, as the log has it; if any

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            PeerRefused: the coordinator does not want this target; trying again would change nothing.
            RemoteProtocolError: on first contact, whoever answered is not the coordinator of the join token.
        """
        tasks = (
            asyncio.create_task(self._dial_again_and_again(), name="link to the coordinator"),
            asyncio.create_task(self._tick(), name="heartbeats"),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # both go on for ever: it is why one does not
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._desk.cancel_all()

    async def _dial_again_and_again(self) -> None:
        while True:
            reason = await self._stay_linked()
            delay = self._backoff.next()
            log.warning("no coordinator", reason=reason, again_in_seconds=round(delay, 1))
            await self._sleep(delay)

    def drain(self, reason: str) -> None:
        self._outbox.say(TargetDrain(reason))

    def recruit(self) -> None:
        """Ask for the drafters that are missing, if it is time to."""
        if self._pool is None or not self._registered:
            return
        now = self._clock.monotonic()
        for node in self._recruiter.give_up_on_late(now):
            log.info("a drafter that was granted did not come: it cannot reach this target, or has let go", node=node)
        count = self._recruiter.missing(len(self._pool.attached), now, self._pool.lacking)
        exclude = [*self._pool.unwanted, *self._recruiter.absent(now)]
        scouting = not count and self._pool.comparing and self._recruiter.scouts(now)
        if scouting:
            count, exclude = 1, [*exclude, *self._pool.released]
            log.info("looking for a better drafter", attached=len(self._pool.attached))
        if count:
            want = self._new_id()
            self._recruiter.asked(want, now, scouting=scouting)
            self._outbox.say(DraftersWanted(want, count, exclude=tuple(exclude[: limits.MAX_PEERS])))

    async def _stay_linked(self) -> str:
        """One connection, from dialling to its end; returns why it ended, where trying again makes sense."""
        try:
            await self._converse(await self._dial())
        except PeerRefused as error:
            if ends_a_service(error, FINAL_REFUSALS, enrolled=self._enrolled):
                raise
            return str(error)
        except (Unreachable, LinkClosed) as error:
            return str(error)
        except RemoteProtocolError as error:
            if not self._enrolled:
                raise
            return error.reason
        raise AssertionError("a conversation ends with what ended it")

    async def _converse(self, link: Link[TargetMessage, CoordinatorToTarget]) -> None:
        """Always raises what ended it. Nothing of this link is left when it has; its requests go on unheard."""
        outgoing = self._outbox.open()
        self._outbox.say(self._registration(self._secret))
        self._link = link
        receiving = asyncio.create_task(self._receive(link), name="from the coordinator")
        sending = asyncio.create_task(_send(link, outgoing), name="to the coordinator")
        overflow = asyncio.create_task(self._outbox.overflowed.wait(), name="outbox overflow")
        tasks = (receiving, sending, overflow)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if overflow.done():
                raise LinkClosed("the coordinator does not read what it is sent")
            if sending.done():
                sending.result()
            await receiving  # it knows why the link ended
        except RemoteProtocolError as error:
            await link.close(error.code, error.reason)
            raise
        finally:
            self._lost()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await link.close(CloseCode.GOING_AWAY)

    def _lost(self) -> None:
        self._link, self._registered = None, False
        self._outbox.close()
        self._desk.unhear()
        self._recruiter.reset()
        if self._pool is not None:
            self._pool.coordinator_lost()

    async def _receive(self, link: Link[TargetMessage, CoordinatorToTarget]) -> None:
        try:
            async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
                first = await link.receive()
        except TimeoutError:
            raise LinkClosed(f"no answer to the registration within {limits.HANDSHAKE_SECONDS:g} s") from None
        if not isinstance(first, Registered):
            raise RemoteProtocolError(f"{type(first).__name__} came before Registered")
        self._register(first)
        while True:
            self._handle(await link.receive())

    def _register(self, message: Registered) -> None:
        self._registered = self._enrolled = True
        self._heartbeat = min(max(message.heartbeat, MIN_HEARTBEAT), MAX_HEARTBEAT)
        self._secret = ""  # spent
        self._backoff.reset()
        if self._pool is not None:
            self._pool.coordinator_found()
        self._joined(message.pool)
        self._receipts.send_again()
        self.recruit()

    def _handle(self, message: CoordinatorToTarget) -> None:
        match message:
            case Generate():
                self._desk.generate(message)
            case Cancel(request=request):
                self._desk.cancel(request)
            case Drafters():
                self._answered(message)
            case ReceiptsStored(batch=batch):
                self._receipts.stored(batch)
            case LeaseRevoked(jti=jti, reason=reason):
                if self._pool is not None:
                    self._pool.revoke(jti, reason)
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} is not expected here")

    def _answered(self, message: Drafters) -> None:
        here = () if self._pool is None else self._pool.attached  # a node may be faster than the answer
        granted = [drafter.node for drafter in message.drafters if drafter.node not in here]
        if not self._recruiter.answered(message.want, granted, self._clock.monotonic()):
            return
        reason = "" if message.drafters else message.reason or "none given"
        attached = len(here)
        scarcity = (reason, attached > 0) if reason else None
        if scarcity is not None and scarcity != self._scarcity:  # it is asked again every few seconds; said once
            if self._pool is not None and attached:
                wanted = max(self._recruiter.wanted, attached + self._pool.lacking)
                log.info("no more drafters to be had", attached=attached, wanted=wanted, reason=reason)
            else:
                log.info("no drafters to be had: decoding goes on without", reason=reason)
        self._scarcity = scarcity

    async def _tick(self) -> None:
        while True:
            await self._sleep(self._heartbeat)
            if self._pool is not None:
                self._pool.close_expired()
            if self._registered:
                if self._pool is not None and self._pool.release():  # while nobody could come instead, nobody goes
                    log.info("a newer drafter brings more than one that was let go")
                    self._recruiter.scouted(self._clock.monotonic())
                attached = 0 if self._pool is None else len(self._pool.attached)
                rtt = None if self._link is None else self._link.rtt
                self._outbox.say(TargetHeartbeat(self._engine.serving, self._engine.queued, attached, rtt))
                self._receipts.send_overdue()
                self.recruit()


async def _send(link: Link[TargetMessage, CoordinatorToTarget], outgoing: asyncio.Queue[TargetMessage]) -> None:
    try:
        while True:
            await link.send(await outgoing.get())
            outgoing.task_done()
    except (LinkClosed, PeerRefused):
        return  # whoever receives on this link learns why
