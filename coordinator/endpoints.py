"""A peer's connection from its first frame to its last: messages become events, outcomes go back as messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from coordinator.events import (
    DraftersAsked,
    Event,
    LandmarkTimed,
    LeaseAnswered,
    LinkId,
    NodeBeat,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    ReceiptsKept,
    TargetBeat,
    TargetDraining,
    TargetLost,
    TargetRegistered,
)
from coordinator.executor import Executor
from coordinator.ledger import Applicant, Enrolment, LedgerError
from coordinator.outbox import Outbox
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.allowance import Allowance
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.peer import PeerLink, accept
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE, AT_COORDINATOR_FROM_TARGET
from wanspec_p2p.protocol.common_messages import ENROLMENT, LANDMARKS, SUCCESSION, Enrol, Registered
from wanspec_p2p.protocol.coordinator_to_target import ReceiptsStored
from wanspec_p2p.protocol.node_to_coordinator import (
    Drain,
    Heartbeat,
    LeaseAnswer,
    ProbeResult,
    RegisterNode,
    Timed,
)
from wanspec_p2p.protocol.target_to_coordinator import (
    DraftersWanted,
    Failed,
    Finished,
    Receipt,
    Receipts,
    RegisterTarget,
    TargetDrain,
    TargetHeartbeat,
    Tokens,
)
from wanspec_p2p.types import Role

__all__ = ["Endpoints"]

MAX_STRANGERS = 256
"""Connections that have not registered yet. Each may take twenty seconds; strangers must not crowd out peers."""
LAST_WORDS_SECONDS = 10.0
"""How long a peer that is hung up on may take to read what it was sent before."""
BEATS_AT_ONCE = 16
"""Heartbeats that may come at once; a peer of which none came for five of its intervals is lost in any case."""
BEATS_A_SECOND = 1.0
"""And so many from then on, or twice as many as were asked for where that is more."""
MAX_RECEIPT_BATCHES = 8
"""Batches of one target that may be on their way to the disk; with more, its next message waits."""
POSITIONS_AT_ONCE = limits.MAX_DRAFTERS * limits.MAX_TOKENS_PER_ROUND
"""Positions that one call of the ledger stores, if they are of more than one receipt: others wait for it. A session
with as many drafters as it may ask for is stored at once."""

log = structlog.get_logger("coordinator")


class Endpoints:
    """Serves peers over any transport."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._links = itertools.count(1)
        self._strangers: set[LinkId] = set()

    async def serve(self, transport: Transport, role: Role) -> None:
        """One connection. Whatever the peer does, this returns, and says nothing but a log line."""
        if len(self._strangers) >= MAX_STRANGERS:
            log.warning("too many strangers", role=role.value)
            await transport.close(CloseCode.TRY_AGAIN_LATER, "too many connections at once: try again")
            return
        number = next(self._links)
        self._strangers.add(number)
        try:
            link = await self._shake_hands(transport, role)
            connection = _Connection(self._executor, link, number, role, lambda: self._strangers.discard(number))
            await connection.run()
        except (LinkClosed, PeerRefused, RemoteProtocolError) as error:
            log.info("handshake failed", role=role.value, reason=str(error))
        finally:
            self._strangers.discard(number)

    async def _shake_hands(self, transport: Transport, role: Role) -> PeerLink[Any]:
        codec: Any = AT_COORDINATOR_FROM_NODE if role is Role.NODE else AT_COORDINATOR_FROM_TARGET
        return await accept(
            transport,
            codec,
            identity=self._executor.identity,
            role=Role.COORDINATOR,
            roles=frozenset({role}),
            clock=self._executor.clock,
            features=(SUCCESSION, LANDMARKS, ENROLMENT),
            succession=self._executor.succession,
        )


class _Connection:
    """Args:
    admitted: called when the peer is a stranger no more.
    """

    def __init__(
        self, executor: Executor, link: PeerLink[Any], number: LinkId, role: Role, admitted: Callable[[], None]
    ) -> None:
        self._executor, self._link, self._number, self._role = executor, link, number, role
        self._admitted = admitted
        self._outbox = Outbox(link)
        self._stores: set[asyncio.Task[None]] = set()
        self._beats = Allowance(BEATS_AT_ONCE, max(BEATS_A_SECOND, 2.0 / executor.settings.heartbeat))

    async def run(self) -> None:
        executor, number = self._executor, self._number
        executor.attach(number, self._outbox)
        if self._role is Role.TARGET:
            executor.watch.begin(number, self._link)
        delivery = asyncio.create_task(self._outbox.deliver())
        reason = "the coordinator stopped"
        try:
            reason = await self._converse()
        finally:
            lost = NodeLost if self._role is Role.NODE else TargetLost
            executor.post(lost(executor.clock.monotonic(), number, reason))
            executor.detach(number)
            executor.watch.end(number)
            self._outbox.close(CloseCode.GOING_AWAY, "")
            await asyncio.wait([delivery, *self._stores], timeout=LAST_WORDS_SECONDS)
            delivery.cancel()
            await self._link.close()
            log.info("peer left", peer=self._link.peer, role=self._role.value, reason=reason)

    async def _converse(self) -> str:
        """Serve the peer until it is gone; why it is."""
        try:
            first = await self._first()
            enrolment = await self._admit(first)
            if isinstance(first, Enrol):
                return self._enrolled(first, enrolment)
            self._register(first, enrolment)
            while True:
                self._handle(await self._link.receive())
                await self._receipts_room()
        except RemoteProtocolError as error:
            self._outbox.close(error.code, error.reason)
            return error.reason
        except (LinkClosed, PeerRefused) as error:
            return str(error)
        except LedgerError as error:
            log.error("ledger", reason=str(error))
            self._outbox.close(CloseCode.TRY_AGAIN_LATER, "the coordinator cannot write its ledger", retry_after=5.0)
            return "the ledger cannot be written"

    async def _first(self) -> RegisterNode | RegisterTarget | Enrol:
        try:
            async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
                message = await self._link.receive()
        except TimeoutError as error:
            raise RemoteProtocolError("registration did not follow the handshake in time") from error
        if isinstance(message, RegisterNode | RegisterTarget):
            return message
        if isinstance(message, Enrol) and ENROLMENT in self._link.features:
            return message
        raise RemoteProtocolError(f"the first message must register, not be a {type(message).__name__}")

    async def _admit(self, message: RegisterNode | RegisterTarget | Enrol) -> Enrolment:
        applicant = Applicant(
            peer=self._link.peer,
            public_key=self._link.public_key,
            role=self._role,
            name=message.name,
            owner=message.owner,
            site=message.site,
            secret=message.join_secret,
        )
        return await self._executor.ledger.admit(applicant, now=self._executor.clock.wall())

    def _enrolled(self, message: Enrol, enrolment: Enrolment) -> str:
        """Tell it, and hang up: until it registers it is nobody to the registry, and a stranger among connections."""
        peer, pool = enrolment.peer, enrolment.pool
        log.info("enrolled", peer=peer, role=self._role.value, name=message.name, pool=pool)
        self._outbox.put(Registered(pool, self._executor.settings.heartbeat))
        self._outbox.close(CloseCode.NORMAL, "")
        return "it was told that it is enrolled"

    def _register(self, message: RegisterNode | RegisterTarget, enrolment: Enrolment) -> None:
        executor = self._executor
        self._admitted()
        at = executor.clock.monotonic()
        if isinstance(message, RegisterNode):
            landmarks = LANDMARKS in self._link.features
            executor.post(NodeRegistered(at, self._number, enrolment.peer, enrolment.pool, message, landmarks))
        else:
            executor.post(TargetRegistered(at, self._number, enrolment.peer, enrolment.pool, message))

    def _handle(self, message: Any) -> None:
        at, number, answers = self._executor.clock.monotonic(), self._number, self._executor.answers
        match message:
            case Tokens():
                answers.tokens(number, message)
            case Finished():
                answers.finish(number, message)
            case Failed():
                answers.fail(number, message)
            case Receipts():
                task = asyncio.create_task(self._store(message))
                self._stores.add(task)
                task.add_done_callback(self._stores.discard)
            case Heartbeat() | TargetHeartbeat() if not self._beats.take(at):
                raise RemoteProtocolError("more heartbeats than were asked for", CloseCode.POLICY_VIOLATION)
            case Heartbeat():
                self._executor.post(NodeBeat(at, number, message, self._link.rtt, self._link.jitter))
            case TargetHeartbeat():
                self._executor.post(TargetBeat(at, number, message, self._link.rtt, self._link.jitter))
            case ProbeResult():
                raise RemoteProtocolError("no probe was asked for")
            case Timed() if LANDMARKS not in self._link.features:
                raise RemoteProtocolError("no landmarks were given")
            case RegisterNode() | RegisterTarget() | Enrol():
                raise RemoteProtocolError("a link registers once")
            case _:
                self._executor.post(_EVENTS[type(message)](at, number, message))

    async def _receipts_room(self) -> None:
        if len(self._stores) >= MAX_RECEIPT_BATCHES:
            await asyncio.wait(self._stores, return_when=asyncio.FIRST_COMPLETED)

    async def _store(self, batch: Receipts) -> None:
        """Acknowledged after the commit and not before; unacknowledged receipts the target sends again."""
        try:
            for part in _parts(batch.receipts):
                await self._store_part(part)
        except LedgerError as error:
            log.error("receipts not stored", count=len(batch.receipts), reason=str(error))
            return
        self._outbox.put(ReceiptsStored(batch.batch))

    async def _store_part(self, receipts: Sequence[Receipt]) -> None:
        """Their leases come first: a receipt whose lease is not on disk counts for nothing, now or later."""
        executor = self._executor
        await executor.record_leases({receipt.jti for receipt in receipts})
        new = await executor.ledger.store_receipts(self._link.peer, receipts, now=executor.clock.wall())
        executor.metrics.receipts(new)
        kept = [receipt for receipt, pair in new if pair is not None]
        if strays := len(new) - len(kept):
            log.warning("receipts under no lease of their node and target", target=self._link.peer, count=strays)
        executor.post(ReceiptsKept(executor.clock.monotonic(), self._number, kept))


def _parts(receipts: Sequence[Receipt]) -> Iterator[Sequence[Receipt]]:
    """Each names `POSITIONS_AT_ONCE` positions at most, or is a single receipt."""
    begin = positions = 0
    for at, receipt in enumerate(receipts):
        positions += len(receipt.by_depth)
        if positions > POSITIONS_AT_ONCE and at > begin:
            yield receipts[begin:at]
            begin, positions = at, len(receipt.by_depth)
    yield receipts[begin:]


_EVENTS: dict[type, Callable[[float, LinkId, Any], Event]] = {
    LeaseAnswer: LeaseAnswered,
    Timed: LandmarkTimed,
    Drain: lambda at, link, message: NodeDraining(at, link, message.reason),
    DraftersWanted: DraftersAsked,
    TargetDrain: lambda at, link, message: TargetDraining(at, link, message.reason),
}
