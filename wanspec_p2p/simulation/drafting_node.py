"""A node of a simulation: the shipped draft link, sessions and engine, a model of whoever plays, and a link that can
be spoilt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from node.draft_link import DraftLink
from node.drafting import DraftingEngine
from node.lease_checks import Held
from node.limits import LendingLimits
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.memory import MemoryTransport, Path, memory_transports
from wanspec_p2p.links.peer import LinkStats, connect
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import issue
from wanspec_p2p.simulation.identities import chance, identity, lease_claims
from wanspec_p2p.simulation.metering import MeteredModel, Work, traced
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.types import PeerId, Role

__all__ = ["NodeSpec", "Says", "SimulatedNode"]

Says: TypeAlias = Callable[[Link[NodeToTarget, TargetToNode], random.Random], Link[NodeToTarget, TargetToNode]]
"""(link to the target, chance of its own) → the link that the node speaks on instead."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node that drafts for the target.

    Args:
        up, down: how frames travel to the target, and back. They may be changed while the site runs.
        owner, site: as its lease says; None for ones of its own.
        slots: sessions it takes at once.
        engine: what drafts with the model; an experiment may take something away from it.
        says: what becomes of its words; None: they are sent as they are.
        redial: seconds at most before it dials a target again that it lost; None: as nodes do.
    """

    model: LanguageModel
    up: Path
    down: Path
    owner: str | None = None
    site: str | None = None
    slots: int = 64
    engine: type[DraftingEngine] = DraftingEngine
    says: Says | None = None
    redial: float | None = None


class SimulatedNode:
    """Args:
    accept: takes the target's end of a link that this node dials.
    """

    def __init__(
        self,
        spec: NodeSpec,
        name: str,
        *,
        seed: int,
        target: PeerId,
        coordinator: Identity,
        accept: Callable[[MemoryTransport, str], None],
        clock: Clock,
        trace: Trace | None,
    ) -> None:
        self.name, self.identity = name, identity(seed, name)
        self.model = MeteredModel(spec.model, name, trace)
        self.engine = spec.engine(self.model, clock=clock)
        self._spec, self._target, self._accept, self._clock, self._trace = spec, target, accept, clock, trace
        self._rng, self._pings = chance(seed, name, "handshakes and the way"), chance(seed, name, "pings")
        self._words = chance(seed, name, "what it says")
        self._transport: MemoryTransport | None = None
        self._parted = False
        self._traffic: list[LinkStats] = []  # of every link it had
        draws = chance(seed, name, "back-off")
        claims = lease_claims(
            clock,
            name=name,
            node=self.identity.peer_id,
            target=target,
            owner=spec.owner or f"owner of {name}",
            site=spec.site or f"site of {name}",
            model=self.model.info,
        )
        self._link = DraftLink(
            Held(claims, issue(coordinator, claims), claims.addresses),
            self.engine,
            LendingLimits(slots=spec.slots, max_prefix=self.model.info.context - 1),
            dial=self._dial,
            backoff=Backoff(draws) if spec.redial is None else Backoff(draws, first=spec.redial, cap=spec.redial),
            clock=clock,
        )
        self._linking = asyncio.create_task(self._link.run(), name=f"draft link of {name}")
        self._drafting = asyncio.create_task(self.engine.run(), name=f"engine of {name}")

    @property
    def peer(self) -> PeerId:
        return self.identity.peer_id

    @property
    def idle(self) -> bool:
        return self.engine.sessions == 0 and self.model.running == 0

    @property
    def work(self) -> Work:
        """So far; traffic as this end counts it, handshakes and pings included."""
        model, traffic = self.model, self._traffic
        return Work(
            *(model.passes, model.segments, model.rows, model.busy),
            frames_up=sum(link.frames_sent for link in traffic),
            frames_down=sum(link.frames_received for link in traffic),
            bytes_up=sum(link.bytes_sent for link in traffic),
            bytes_down=sum(link.bytes_received for link in traffic),
        )

    def disconnect(self) -> None:
        """Both ends lose the link, and what is under way; the node dials again after its back-off."""
        if self._transport is not None:
            self._transport.disconnect()

    def partition(self) -> None:
        """Nothing arrives either way, and nobody is told, until `heal`; a dial in between finds nobody."""
        self._parted = True
        if self._transport is not None:
            self._transport.partition()

    def heal(self) -> None:
        self._parted = False
        if self._transport is not None:
            self._transport.heal()

    async def kill(self) -> None:
        """The machine is gone, without a word, for good."""
        self._linking.cancel()
        self._drafting.cancel()
        self.disconnect()
        await asyncio.gather(self._linking, self._drafting, return_exceptions=True)

    async def leave(self) -> None:
        """Say goodbye, and stop once the pass under way is over.

        Raises:
            Exception: what ended the link's task or the engine's before its time: a bug in the code under study.
        """
        if not self._link.leave("the simulation is over"):
            self._linking.cancel()
        linking = await asyncio.gather(self._linking, return_exceptions=True)
        self.engine.stop()
        drafting = await asyncio.gather(self._drafting, return_exceptions=True)
        for outcome in (*linking, *drafting):
            if isinstance(outcome, Exception):
                raise outcome

    async def _dial(self, lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
        if self._parted:
            raise Unreachable(f"nobody answers at {address}")
        near, far = memory_transports(self._spec.up, self._spec.down, rng=self._rng)
        self._transport = near
        self._accept(far, self.name)
        link = await connect(
            traced(near, self.name, "target", self._trace),
            AT_NODE_FROM_TARGET,
            identity=self.identity,
            role=Role.NODE,
            expect=self._target,
            clock=self._clock,
            nonce=self._rng.randbytes,
            pings=self._pings.randbytes,
        )
        self._traffic.append(link.stats)
        return link if self._spec.says is None else self._spec.says(link, self._words)
