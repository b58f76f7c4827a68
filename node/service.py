"""A node without its process: control link, draft links and engine put together. What daemon and simulation share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from node.control import ControlLink, DialCoordinator
from node.coordinator_link import CoordinatorLink
from node.draft_link import DialTarget, DraftLink
from node.draft_links import DraftLinks
from node.drafting import DraftingEngine
from node.landmarks import LandmarkTimer, TimeTarget
from node.lease_checks import Held
from node.limits import LendingLimits
from wanspec_p2p.clock import Clock
from wanspec_p2p.links.backoff import COORDINATOR_CAP_SECONDS, Backoff
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.node_to_coordinator import RegisterNode
from wanspec_p2p.security import leases
from wanspec_p2p.types import PeerId

__all__ = ["DRAIN_SECONDS", "NodeService"]

DRAIN_SECONDS = 5.0
"""From the wish to leave to the end, whatever the others do."""
LEAVING = "the node is shutting down"
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

log = structlog.get_logger(__name__)


class NodeService:
    """Args:
    peer: this node.
    coordinator: public key of the coordinator, whose leases alone count.
    registration: what the node says of itself; `secret` and `enrolled` as in `CoordinatorLink`.
    loopback: whether the coordinator was reached on this machine, as in `CoordinatorLink`.
    joined: called with the pool's name each time the coordinator has taken us in.
    rng: jitter.
    """

    def __init__(
        self,
        peer: PeerId,
        coordinator: bytes,
        registration: RegisterNode,
        model: LanguageModel,
        limits: LendingLimits,
        *,
        secret: str,
        enrolled: bool,
        dial_coordinator: DialCoordinator,
        dial_target: DialTarget,
        time_target: TimeTarget,
        loopback: Callable[[], bool],
        joined: Callable[[str], None],
        clock: Clock,
        rng: random.Random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._limits, self._dial_target = limits, dial_target
        self._clock, self._rng, self._sleep = clock, rng, sleep
        self.engine = DraftingEngine(model, clock=clock)
        self._links = DraftLinks(self._draft_link, lambda jti, reason: self._control.lease_lost(jti, reason))
        self._peer, self._coordinator = peer, coordinator
        machine = CoordinatorLink(
            registration,
            secret=secret,
            enrolled=enrolled,
            check=self._check_lease,
            limits=limits,
            loopback=loopback,
        )
        self._control = ControlLink(
            machine,
            self.engine,
            self._links,
            LandmarkTimer(time_target, clock=clock, rng=rng, sleep=sleep),
            dial=dial_coordinator,
            joined=joined,
            backoff=Backoff(rng, cap=COORDINATOR_CAP_SECONDS),
            clock=clock,
            sleep=sleep,
        )

    def follow(self, coordinator: bytes) -> None:
        """Its key is another now: leases it signs from here on carry that one's signature, and no other counts."""
        self._coordinator = coordinator

    def _check_lease(self, lease: str) -> leases.LeaseClaims:
        return leases.check(lease, coordinator=self._coordinator, clock=self._clock, node=self._peer)

    async def serve(self, stop: asyncio.Event) -> None:
        """Lend until `stop` is set, then drain within `DRAIN_SECONDS`.

        Raises:
            PeerRefused, RemoteProtocolError, ConfigError: as `ControlLink.run`.
        """
        engine = asyncio.create_task(self.engine.run(), name="drafting")
        control = asyncio.create_task(self._control.run(), name="control link")
        stopping = asyncio.create_task(stop.wait(), name="wait for the end")
        try:
            await asyncio.wait((engine, control, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not control.done():
                log.info("draining", seconds_at_most=DRAIN_SECONDS)
                self._control.drain(LEAVING)
            await self._wind_up(engine, control)
        finally:
            await self._links.abort()
            for task in (engine, control, stopping):
                task.cancel()
            await asyncio.gather(engine, control, stopping, return_exceptions=True)

    async def _wind_up(self, engine: asyncio.Task[None], control: asyncio.Task[None]) -> None:
        """Goodbyes and the pass that is running, for a bounded time; then whatever ended us is raised."""
        self.engine.stop()
        goodbyes = asyncio.create_task(self._links.finished(), name="goodbyes")
        _, late = await asyncio.wait((engine, control, goodbyes), timeout=DRAIN_SECONDS)
        if late:
            log.warning("leaving without waiting longer", unfinished=sorted(task.get_name() for task in late))
        goodbyes.cancel()
        for task in (engine, control):
            if task.done():
                task.result()

    def _draft_link(self, lease: Held) -> DraftLink:
        return DraftLink(
            lease,
            self.engine,
            self._limits,
            dial=self._dial_target,
            backoff=Backoff(self._rng),
            clock=self._clock,
            sleep=self._sleep,
        )
