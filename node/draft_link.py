"""One link to one target, for as long as its lease is held: dial, attach, serve its sessions, and dial again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from node.drafting import DraftingEngine
from node.lease_checks import Held
from node.limits import LendingLimits
from node.link_sessions import LinkSessions
from node.outbox import Outbox
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, UsageError
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.limits import SILENCE_SECONDS
from wanspec_p2p.protocol.node_to_target import Attach, Detach, NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.speculation.calibration import RankTable

__all__ = ["DialTarget", "DraftLink"]

DialTarget: TypeAlias = Callable[[Held, str], Awaitable[Link[NodeToTarget, TargetToNode]]]
"""(lease, one of its addresses) → an authenticated link to the lease's target."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

FINAL_REFUSALS = frozenset(
    {
        CloseCode.LEASE_REFUSED,
        CloseCode.NOT_ENROLLED,
        CloseCode.TOKENIZER_MISMATCH,
        CloseCode.VERSION_MISMATCH,
        CloseCode.REPLACED,
        CloseCode.IDLE,  # it has no use for us now; if it does again, we are offered a lease again
    }
)

log = structlog.get_logger(__name__)


class DraftLink:
    """Args:
    dial: how a target is reached.
    backoff: delays between attempts at this target.

    Attributes:
        table: what is known of the model's candidates at this target, whenever it is dialled again.
    """

    def __init__(
        self,
        lease: Held,
        engine: DraftingEngine,
        limits: LendingLimits,
        *,
        dial: DialTarget,
        backoff: Backoff,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.lease = lease
        self.table = RankTable()
        self._engine, self._limits = engine, limits
        self._dial, self._backoff, self._clock, self._sleep = dial, backoff, clock, sleep
        self._outbox: Outbox[NodeToTarget] | None = None  # None while there is no link
        self._leaving: str | None = None

    async def run(self) -> str:
        """Serve the target until `leave`, or until it will not have us for good. Returns the reason in words."""
        attempts = 0
        while True:
            addresses = self.lease.addresses
            try:
                await self._serve(addresses[attempts % len(addresses)])
            except PeerRefused as error:
                if error.code in FINAL_REFUSALS:
                    return str(error)
                reason = str(error)
            except (UsageError, LinkClosed, RemoteProtocolError) as error:
                reason = str(error)
            if self._leaving is not None:
                return self._leaving
            attempts += 1
            delay = self._backoff.next()
            log.info("target lost", target=self.lease.claims.target, reason=reason, again_in_seconds=round(delay, 1))
            await self._sleep(delay)

    def renew(self, lease: Held) -> None:
        """Go on under another lease for the same target."""
        self.lease = lease
        if self._outbox is not None:
            self._outbox.put(Attach(lease=lease.text))

    def leave(self, reason: str) -> bool:
        """Say goodbye and close; `run` then returns. False where there is no link to say it on: cancel `run`."""
        self._leaving = reason
        if self._outbox is None:
            return False
        self._outbox.put(Detach(reason=reason))
        self._outbox.finish(reason)
        return True

    async def _serve(self, address: str) -> None:
        """One connection, from dialling to its end; always raises what ended it."""
        link = await self._dial(self.lease, address)
        self._outbox = outbox = Outbox(link)
        outbox.put(Attach(lease=self.lease.text))
        sessions = LinkSessions(self._engine, self._limits, outbox.put, self.table)
        begun = self._clock.monotonic()
        log.info("drafting for target", target=link.peer, address=address)
        try:
            while True:
                sessions.handle(await link.receive())
        except RemoteProtocolError as error:
            await link.close(error.code, error.reason)
            raise
        finally:
            self._outbox = None
            seconds = self._clock.monotonic() - begun
            log.info(
                "link to target ended",
                target=link.peer,
                seconds=round(seconds),
                sessions=sessions.opened,
                tokens_drafted=sessions.drafted,
            )
            if seconds >= SILENCE_SECONDS:
                self._backoff.reset()  # it was a working link, not a target that drops us as soon as we come
            sessions.close()
            await outbox.close()
