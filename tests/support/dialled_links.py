"""What every fake that is dialled over memory does alike: fail as it was told to, else accept, and keep the far end."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.links.peer import PeerLink, accept, connect
from wanspec_p2p.protocol.codec import Codec
from wanspec_p2p.protocol.common_messages import ControlMessage, DraftLinkMessage
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import PeerId, Role

__all__ = ["DialledCoordinator", "DialledLinks"]

Heard = TypeVar("Heard", bound=ControlMessage | DraftLinkMessage)
Told = TypeVar("Told", bound=ControlMessage | DraftLinkMessage)


class DialledLinks(Generic[Heard]):
    """`connected` is what a fake's `dial` returns; `next_link` gives the far end of what was dialled.

    Args:
        codec: for what the far end hears.
        identity, role: whom the dialler finds there.
        seconds: how long `next_link` waits.

    Attributes:
        failures: raised by the next attempts, one each, before anything is accepted.
        features: of the protocol, that both ends name.
    """

    def __init__(
        self, codec: Codec[Heard], *, identity: Identity, role: Role, clock: Clock, seconds: float = 5.0
    ) -> None:
        self._codec, self._identity, self._role, self._clock = codec, identity, role, clock
        self._seconds = seconds
        self.failures: list[WanspecError] = []
        self.features: tuple[str, ...] = ()
        self._links: asyncio.Queue[PeerLink[Heard]] = asyncio.Queue()
        self._all: list[PeerLink[Heard]] = []

    async def connected(
        self, codec: Codec[Told], *, identity: Identity, role: Role, expect: PeerId | None = None
    ) -> PeerLink[Told]:
        """The dialler's end of a new link.

        Args:
            codec, identity, role: the dialler's.
            expect: whom it looks for; None is whoever we are.
        """
        if self.failures:
            raise self.failures.pop(0)
        here, there = memory_transports()
        far, near = await asyncio.gather(
            accept(
                there,
                self._codec,
                identity=self._identity,
                role=self._role,
                roles=frozenset({role}),
                clock=self._clock,
                features=self.features,
            ),
            connect(
                here,
                codec,
                identity=identity,
                role=role,
                expect=expect or self._identity.peer_id,
                clock=self._clock,
                features=self.features,
            ),
        )
        self._all.append(far)
        self._links.put_nowait(far)
        return near

    async def next_link(self) -> PeerLink[Heard]:
        """Oldest first."""
        async with asyncio.timeout(self._seconds):
            return await self._links.get()

    async def close(self) -> None:
        for link in self._all:
            await link.close()


class DialledCoordinator(DialledLinks[Heard], Generic[Heard, Told]):
    """A coordinator for one peer: `dial` is what that peer is given to reach it.

    Args:
        heard, told: codecs of the coordinator's end and of the peer's.
        peer, role: who dials.

    Attributes:
        dialled: number of attempts.
    """

    def __init__(
        self,
        heard: Codec[Heard],
        told: Codec[Told],
        *,
        identity: Identity,
        peer: Identity,
        role: Role,
        clock: Clock,
        seconds: float = 5.0,
    ) -> None:
        super().__init__(heard, identity=identity, role=Role.COORDINATOR, clock=clock, seconds=seconds)
        self._told, self._peer, self._peer_role = told, peer, role
        self.dialled = 0

    async def dial(self) -> PeerLink[Told]:
        self.dialled += 1
        return await self.connected(self._told, identity=self._peer, role=self._peer_role)
