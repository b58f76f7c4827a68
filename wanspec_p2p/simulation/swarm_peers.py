"""The peers of a swarm: whole nodes and targets of shipped code, reached over links in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Protocol

from node.lease_checks import Held
from node.limits import LendingLimits
from node.service import NodeService
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.links.memory import MemoryTransport
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.codec import (
    AT_NODE_FROM_COORDINATOR,
    AT_NODE_FROM_TARGET,
    AT_TARGET_FROM_COORDINATOR,
    Codec,
    In,
)
from wanspec_p2p.protocol.common_messages import LANDMARKS
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.identities import ADDRESS, chance, identity
from wanspec_p2p.simulation.models import EndsLast
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import Target
from wanspec_p2p.types import PeerId, Role, TokenId

__all__ = ["SimulatedTokenizer", "Switchboard", "SwarmNode", "SwarmTarget"]

_FIRST_CHARACTER = 0x4E00
"""Of a block of 20,000 characters: each id has one of its own."""
_NOWHERE = FilePath()


class Switchboard(Protocol):
    """How a peer reaches others."""

    @property
    def clock(self) -> Clock: ...

    @property
    def coordinator(self) -> Identity: ...

    def to_coordinator(self, caller: str, role: Role) -> MemoryTransport:
        """The caller's end of a new link."""
        ...

    def to_target(self, caller: str, target: PeerId) -> MemoryTransport:
        """Raises Unreachable: there is no such target."""
        ...

    async def time(self, caller: str, target: PeerId) -> float:
        """A round trip, in seconds, as a connection would take; raises as `to_target`."""
        ...


class SimulatedTokenizer:
    """A `Tokenizer` of one character an id."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def encode(self, text: str) -> list[TokenId]:
        return [max(0, ord(character) - _FIRST_CHARACTER) for character in text]

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[TokenId]:
        return self.encode("".join(content for _, content in messages))

    def decode(self, ids: Sequence[TokenId]) -> str:
        return "".join(chr(_FIRST_CHARACTER + token) for token in ids)

    def piece(self, token: TokenId) -> str:
        return self.decode([token])


class SwarmTarget:
    """Runs until `stop`."""

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        network: Switchboard,
        *,
        seed: int,
        secret: str,
        drafters: int,
        slots: int,
        queue: int,
    ) -> None:
        self.name, self.identity = name, identity(seed, name)
        self._network = network
        self._rng = chance(seed, name)
        numbers = itertools.count(1)
        settings = TargetSettings(
            data_dir=_NOWHERE, cache_dir=_NOWHERE, name=name, drafters=drafters, slots=slots, queue=queue
        )
        self.target = Target(
            settings,
            self.identity,
            network.coordinator.public_key,
            EndsLast(model),
            SimulatedTokenizer(model.info.tokenizer),
            network.clock,
            dial=self._dial,
            rng=self._rng,
            new_id=lambda: f"{name} {next(numbers)}",
        )
        self.joined = asyncio.Event()
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(
            self.target.serve(ADDRESS, None, secret, lambda pool: self.joined.set(), self._stop), name=name
        )

    async def admit(self, transport: MemoryTransport) -> None:
        """A node dialled; as a listener's handler does it."""
        try:
            with contextlib.suppress(WanspecError):
                await self.target.admit(transport)
        finally:
            await transport.close()

    async def stop(self) -> None:
        self._stop.set()
        await self._serving

    async def _dial(self) -> PeerLink[CoordinatorToTarget]:
        return await connect(
            self._network.to_coordinator(self.name, Role.TARGET),
            AT_TARGET_FROM_COORDINATOR,
            identity=self.identity,
            role=Role.TARGET,
            expect=self._network.coordinator.peer_id,
            clock=self._network.clock,
            nonce=self._rng.randbytes,
        )


class SwarmNode:
    """One stay of a node, from joining to `leave` or `kill`."""

    def __init__(
        self, name: str, model: LanguageModel, network: Switchboard, *, seed: int, stay: int, secret: str, slots: int
    ) -> None:
        self.name, self.identity = name, identity(seed, name)
        self._network = network
        self._rng = chance(seed, name, f"stay {stay}")
        self._transports: list[MemoryTransport] = []
        info = model.info
        drafter = DrafterModel(info.name, info.digest, info.tokenizer, info.vocab_size, info.context, 0.0)
        self.service = NodeService(
            self.identity.peer_id,
            network.coordinator.public_key,
            RegisterNode(name, (drafter,), slots, owner=f"owner of {name}", site=f"site of {name}"),
            model,
            LendingLimits(slots=slots, max_prefix=info.context - 1),
            secret=secret,
            enrolled=stay > 0,
            dial_coordinator=self._dial_coordinator,
            dial_target=self._dial_target,
            time_target=lambda landmark: network.time(name, landmark.target),
            loopback=lambda: True,
            joined=lambda pool: None,
            clock=network.clock,
            rng=self._rng,
        )
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(self.service.serve(self._stop), name=name)

    async def leave(self) -> None:
        """Say goodbye to everyone."""
        self._stop.set()
        await self._serving

    async def kill(self, *, silently: bool = False) -> None:
        """Nobody hears a word: the links break, or, where the whole machine goes, are just quiet from now on."""
        for transport in self._transports:
            if silently:
                transport.partition()
            else:
                transport.disconnect()
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _dial_coordinator(self) -> PeerLink[CoordinatorToNode]:
        transport = self._network.to_coordinator(self.name, Role.NODE)
        expect = self._network.coordinator.peer_id
        return await self._dial(transport, AT_NODE_FROM_COORDINATOR, expect, features=(LANDMARKS,))

    async def _dial_target(self, lease: Held, address: str) -> PeerLink[TargetToNode]:
        transport = self._network.to_target(self.name, lease.claims.target)
        return await self._dial(transport, AT_NODE_FROM_TARGET, lease.claims.target)

    async def _dial(
        self, transport: MemoryTransport, codec: Codec[In], expect: PeerId, *, features: Sequence[str] = ()
    ) -> PeerLink[In]:
        self._transports.append(transport)
        return await connect(
            transport,
            codec,
            identity=self.identity,
            role=Role.NODE,
            expect=expect,
            clock=self._network.clock,
            nonce=self._rng.randbytes,
            features=features,
        )
