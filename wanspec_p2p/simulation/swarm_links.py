"""The links of a swarm: who dials whom, over how much distance, and which ends are served still."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.endpoints import Endpoints
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.links.memory import MemoryTransport, memory_transports
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.swarm_peers import SwarmTarget
from wanspec_p2p.simulation.swarm_traffic import CountedTransport, Traffic
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import PeerId, Role

__all__ = ["SwarmLinks"]


class SwarmLinks:
    """A `Switchboard` of links in memory.

    Args:
        endpoints: of the coordinator.
        wan: what lies between two machines, by name; asked anew for each link.

    Attributes:
        traffic: what has passed the coordinator.
    """

    def __init__(
        self, endpoints: Endpoints, coordinator: Identity, clock: Clock, wan: Callable[[str, str], Wan], seed: int
    ) -> None:
        self.coordinator, self.clock = coordinator, clock
        self.traffic = Traffic()
        self._endpoints, self._wan, self._seed = endpoints, wan, seed
        self._targets: dict[PeerId, SwarmTarget] = {}
        self._wires = itertools.count(1)
        self._ends: dict[asyncio.Task[None], None] = {}

    @property
    def open(self) -> int:
        """Ends of links that somebody dialled and that are served still."""
        return len(self._ends)

    async def ended(self) -> None:
        """Wait until nobody serves an end any more."""
        await asyncio.gather(*self._ends, return_exceptions=True)

    def add(self, target: SwarmTarget) -> None:
        """From now on it can be dialled."""
        self._targets[target.identity.peer_id] = target

    def to_coordinator(self, caller: str, role: Role) -> MemoryTransport:
        near, far = self._wire(caller, "coordinator")
        self._spawn(self._endpoints.serve(CountedTransport(far, self.traffic), role), f"coordinator's end for {caller}")
        return near

    def to_target(self, caller: str, target: PeerId) -> MemoryTransport:
        called = self._called(target)
        near, far = self._wire(caller, called.name)
        self._spawn(called.admit(far), f"{called.name}'s end for {caller}")
        return near

    async def time(self, caller: str, target: PeerId) -> float:
        """One frame there and one back, over a link that nobody serves."""
        near, far = self._wire(caller, self._called(target).name)
        begun = self.clock.monotonic()
        for sender, receiver in ((near, far), (far, near)):
            await sender.send("")
            await receiver.receive()
        return self.clock.monotonic() - begun

    def _called(self, target: PeerId) -> SwarmTarget:
        if target not in self._targets:
            raise Unreachable("nobody answers there")
        return self._targets[target]

    def _wire(self, caller: str, called: str) -> tuple[MemoryTransport, MemoryTransport]:
        wan = self._wan(caller, called)
        rng = chance(self._seed, caller, called, str(next(self._wires)))
        return memory_transports(wan.path(), wan.path(), rng=rng)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._ends[task] = None
        task.add_done_callback(self._ends.pop)
