"""The target's link to its coordinator: registered as long as it can be, reconnecting when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
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

__all__ = ["FINAL_REFUSALS", "Control", "Dial", "Outbox"]

Dial: TypeAlias = Callable[[], Awaitable[Link[TargetMessage, CoordinatorToTarget]]]

FINAL_REFUSALS = frozenset(
    {
        CloseCode.NOT_ENROLLED,
        CloseCode.JOIN_REFUSED,
        CloseCode.VERSION_MISMATCH,
        CloseCode.REPLACED,  # two targets with one identity would otherwise throw each other out for ever
    }
)
MIN_HEARTBEAT, MAX_HEARTBEAT = 0.2, 60.0
MAX_WAITING = 65_536
"""Messages that wait for the coordinator; one that reads this slowly is as good as gone."""

log = structlog.get_logger(__name__)


class Outbox:
    """Where the rest of the target leaves messages for the coordinator. Nothing is kept while it is away:
    a request dies with the link it came on, and receipts are sent again."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[TargetMessage] | None = None

    def say(self, message: TargetMessage) -> None:
        if self._waiting is None:
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._waiting = None

    def open(self) -> asyncio.Queue[TargetMessage]:
        self._waiting = asyncio.Queue(MAX_WAITING)
        return self._waiting

    def close(self) -> None:
        self._waiting = None


class Control:
    """Args:
    registration: what this target says of itself, without a secret.
    secret: the join secret; shown until the coordinator has taken us in.
    joined: called with the pool's name each time it has.
    """

    def __init__(
        self,
        *,
        dial: Dial,
        registration: Callable[[str], RegisterTarget],
        secret: str,
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._dial, self._registration, self._secret, self._joined = dial, registration, secret, joined
        self._outbox, self._desk, self._pool, self._recruiter = outbox, desk, pool, recruiter
        self._receipts, self._engine, self._new_id = receipts, engine, new_id
        self._backoff, self._clock, self._sleep = backoff, clock, sleep
        self._registered = False
        self._joined_once = False
        self._rtt: float | None = None

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            PeerRefused: the coordinator does not want this target; trying again would change nothing.
        """
        while True:
            try:
                await self._converse(await self._dial())
            except PeerRefused as error:
                if error.code in FINAL_REFUSALS:
                    raise
                reason = str(error)
            except (Unreachable, LinkClosed) as error:
                reason = str(error)
            except RemoteProtocolError as error:
                if not self._joined_once:
                    raise
                reason = error.reason
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
        count = self._recruiter.missing(len(self._pool.attached), now)
        if count:
            want = self._new_id()
            self._recruiter.asked(want, now)
            self._outbox.say(DraftersWanted(want, count, exclude=tuple(self._pool.attached)))

    async def _converse(self, link: Link[TargetMessage, CoordinatorToTarget]) -> None:
        outgoing = self._outbox.open()
        self._outbox.say(self._registration(self._secret))
        tasks = [asyncio.create_task(_send(link, outgoing), name="to the coordinator")]
        try:
            while True:
                message = await link.receive()
                self._rtt = link.rtt
                if isinstance(message, Registered):
                    tasks.append(asyncio.create_task(self._beat(message.heartbeat), name="heartbeats"))
                self._handle(message)
        except RemoteProtocolError as error:
            await link.close(error.code, error.reason)
            raise
        finally:
            self._outbox.close()
            self._registered = False
            self._recruiter.reset()
            if self._pool is not None:
                self._pool.coordinator_reachable = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await link.close(CloseCode.GOING_AWAY)
            await self._desk.cancel_all()

    def _handle(self, message: CoordinatorToTarget) -> None:
        match message:
            case Registered(pool=pool):
                self._register(pool)
            case Generate():
                self._desk.generate(message)
            case Cancel(request=request):
                self._desk.cancel(request)
            case Drafters(want=want, drafters=drafters, reason=reason):
                self._recruiter.answered(want, len(drafters), self._clock.monotonic())
                if not drafters:
                    log.info("no drafters to be had", reason=reason)
            case ReceiptsStored(batch=batch):
                self._receipts.stored(batch)
            case LeaseRevoked(jti=jti, reason=reason):
                if self._pool is not None:
                    self._pool.revoke(jti, reason)
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} is not expected here")

    def _register(self, pool: str) -> None:
        if self._registered:
            raise RemoteProtocolError("Registered was said twice")
        self._registered = self._joined_once = True
        self._secret = ""  # spent
        self._backoff.reset()
        if self._pool is not None:
            self._pool.coordinator_reachable = True
        self._joined(pool)
        self._receipts.send_again()
        self.recruit()

    async def _beat(self, every: float) -> None:
        while True:
            await self._sleep(min(max(every, MIN_HEARTBEAT), MAX_HEARTBEAT))
            attached = 0 if self._pool is None else len(self._pool.attached)
            self._outbox.say(TargetHeartbeat(self._engine.serving, self._engine.queued, attached, self._rtt))
            if self._pool is not None:
                self._pool.close_expired()
            self.recruit()


async def _send(link: Link[TargetMessage, CoordinatorToTarget], outgoing: asyncio.Queue[TargetMessage]) -> None:
    try:
        while True:
            await link.send(await outgoing.get())
    except (LinkClosed, PeerRefused):
        return  # whoever receives on this link learns why
