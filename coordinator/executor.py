"""Carries out what the registry asks for: the one place where its instructions meet links, keys and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from coordinator.acceptance import Acceptance
from coordinator.answers import Answers
from coordinator.events import Disenrolled, Event, LeasesRead, LinkId, NodeRegistered, TargetRegistered, Tick
from coordinator.instructions import (
    Close,
    Instruction,
    LeaseTerms,
    OfferLease,
    RecordLease,
    RenewLease,
    Send,
    TargetGone,
)
from coordinator.ledger import Ledger, LedgerError
from coordinator.metrics import Metrics
from coordinator.outbox import Outbox
from coordinator.records import Tally
from coordinator.registry import Registry
from coordinator.settings import CoordinatorSettings
from coordinator.watch import Watch
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.protocol.coordinator_to_node import LeaseOffer, LeaseRenewed
from wanspec_p2p.security import leases
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.succession import Succession
from wanspec_p2p.types import PeerId

__all__ = ["Executor"]

GOODBYE_SECONDS = 2.5
"""How long peers may take to hear that we are going."""

log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class _Record:
    """A lease as it is to stand in the ledger. `now`: seconds since the Unix epoch."""

    terms: LeaseTerms
    seconds: float
    now: float


@dataclass(frozen=True, slots=True)
class _Leaving:
    reason: str
    retry_after: float


class Executor:
    """Args:
    rng, new_id, tallies, acceptance: see `Registry`.
    succession: from the keys `identity` had before, for peers that still know one of those.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        identity: Identity,
        ledger: Ledger,
        clock: Clock,
        *,
        rng: random.Random,
        new_id: Callable[[], str],
        tallies: Mapping[PeerId, Tally],
        acceptance: Sequence[Acceptance] = (),
        succession: tuple[Succession, ...] = (),
    ) -> None:
        self.settings, self.identity, self.ledger, self.clock = settings, identity, ledger, clock
        self.new_id, self.succession = new_id, succession
        self.registry = Registry(
            rng=rng,
            new_id=new_id,
            heartbeat=settings.heartbeat,
            lease_seconds=settings.lease_seconds,
            offer_seconds=settings.offer_seconds,
            trusted_pools=frozenset(settings.trusted_pools),
            tallies=tallies,
            acceptance=acceptance,
        )
        self.watch = Watch()
        self.answers = Answers(
            lambda: self.registry.targets.values(),
            self._send,
            stall_seconds=settings.stall_seconds,
            hung=self.watch.hung,
        )
        self.metrics = Metrics(
            lambda: (
                [node.state for node in self.registry.nodes.values()],
                [target.state for target in self.registry.targets.values()],
                len(self.registry.leases),
                len(self.answers),
            ),
            lambda: self.registry.accuracy,
        )
        self._outboxes: dict[LinkId, Outbox] = {}
        self._behind: dict[LinkId, dict[str, str]] = {}  # who registered on a link, as the log has it
        self._hung: frozenset[LinkId] = frozenset()  # as of the last tick
        self._all_left = asyncio.Event()
        self._leaving: _Leaving | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unrecorded: dict[str, _Record] = {}  # by jti: the disk has not taken them yet

    def attach(self, link: LinkId, outbox: Outbox) -> None:
        self._outboxes[link] = outbox
        if self._leaving is not None:  # it came while we are going
            self._dismiss(outbox, self._leaving)

    def detach(self, link: LinkId) -> None:
        self._outboxes.pop(link, None)
        self._behind.pop(link, None)
        if not self._outboxes:
            self._all_left.set()

    def post(self, event: Event) -> None:
        """Tell the registry, and do what it asks. Never waits."""
        if isinstance(event, NodeRegistered | TargetRegistered):
            self._behind.setdefault(event.link, {"peer": event.peer, "name": event.message.name})
            log.info("registering", peer=event.peer, name=event.message.name, pool=event.pool)
        for instruction in self.registry.handle(event):
            self._perform(instruction)
        if isinstance(event, Tick):
            self._look_for_hung(event.at)

    async def recover(self) -> None:
        """Go on with the leases that were given before this process began. Call it before any peer is served.

        Raises:
            LedgerError: they cannot be read.
        """
        leases = await self.ledger.leases_in_force(now=self.clock.wall())
        self.post(LeasesRead(self.clock.monotonic(), leases))

    async def expel(self) -> None:
        """Have whoever was revoked since it came leave: another process has written that to the ledger."""
        registry = self.registry
        try:
            gone = await self.ledger.disenrolled({*registry.nodes, *registry.targets, *registry.awaited})
        except LedgerError as error:
            log.error("cannot tell who was revoked", reason=str(error))
            return
        if gone:
            self.post(Disenrolled(self.clock.monotonic(), gone))

    async def record_leases(self, jtis: Collection[str]) -> None:
        """Have those of them on disk that we gave and that are not yet. Receipts under a lease count from then on only.

        Raises:
            LedgerError: the disk does not take them.
        """
        for record in [record for jti, record in self._unrecorded.items() if jti in jtis]:
            await self._record(record)

    async def catch_up(self) -> None:
        """Try again to write down what the disk would not take when it was to."""
        try:
            await self.record_leases(tuple(self._unrecorded))
        except LedgerError as error:
            log.error("leases not recorded", count=len(self._unrecorded), reason=str(error))

    async def _record(self, record: _Record) -> None:
        terms = record.terms
        await self.ledger.record_lease(terms, now=record.now, seconds=record.seconds)
        if self._unrecorded.get(terms.jti) is record:  # and has not been renewed meanwhile
            del self._unrecorded[terms.jti]

    def _look_for_hung(self, at: float) -> None:
        hung = self.watch.tick(at, self.answers.owing)
        for link in hung:
            if link not in self._hung:
                peer = next((target.peer for target in self.registry.targets.values() if target.link == link), None)
                log.warning("a target owes tokens and does not answer", link=link, target=peer)
            if moved := self.answers.target_hung(link):
                log.warning("a target is hung: others go on with its answers", link=link, answers=moved)
        self._hung = frozenset(link for link in {*hung, *self._hung} if self.watch.hung(link))

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case Send(link, message):
                self._send(link, message)
            case OfferLease(link, terms, seconds):
                self._send(link, LeaseOffer(terms.jti, self._signed(terms, seconds)))
            case RecordLease(terms, seconds):
                record = self._unrecorded[terms.jti] = _Record(terms, seconds, self.clock.wall())
                self._spawn(self._record(record))
            case RenewLease(link, terms, seconds):
                self._send(link, LeaseRenewed(terms.jti, self._signed(terms, seconds)))
            case Close(link, code, reason):
                log.info("closing", link=link, **self._behind.get(link, {}), code=int(code), reason=reason)
                if link in self._outboxes:
                    self._outboxes[link].close(code, reason)
            case TargetGone(link, reason):
                self.answers.target_gone(link, reason)

    def _send(self, link: LinkId, message: Any) -> None:
        outbox = self._outboxes.get(link)
        if outbox is not None:  # it may have ended a moment ago; its `Lost` event is on its way
            outbox.put(message)

    def _signed(self, terms: LeaseTerms, seconds: float) -> str:
        now = int(self.clock.wall())
        claims = leases.LeaseClaims(
            jti=terms.jti,
            node=terms.node,
            target=terms.target,
            owner=terms.owner,
            site=terms.site,
            pool=terms.pool,
            model=terms.model,
            digest=terms.digest,
            tokenizer=terms.tokenizer,
            addresses=terms.addresses,
            certificate=terms.certificate,
            issued=now,
            expires=now + int(seconds),
        )
        return leases.issue(self.identity, claims)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A write nobody waits for. Its failure shows in the log and at `/ready`; `catch_up` repeats it."""

        async def run() -> None:
            try:
                await work
            except LedgerError as error:
                log.error("lease not recorded", reason=str(error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def shut_down(self, reason: str, *, retry_after: float) -> None:
        """End every answer with a typed error, every link with a Goodbye; wait, not for long, until all have left."""
        self._leaving = _Leaving(reason, retry_after)
        self.answers.shut_down(reason)
        for outbox in self._outboxes.values():
            self._dismiss(outbox, self._leaving)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while self._outboxes:
                    self._all_left.clear()
                    await self._all_left.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @staticmethod
    def _dismiss(outbox: Outbox, leaving: _Leaving) -> None:
        outbox.close(CloseCode.GOING_AWAY, leaving.reason, retry_after=leaving.retry_after)
