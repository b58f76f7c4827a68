"""A coordinator as a node's control link sees it: accepts what is dialled, over memory, and says what a test wants."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.links.peer import PeerLink, accept, connect
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE, AT_NODE_FROM_COORDINATOR
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage, RegisterNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

__all__ = ["FakeNodeCoordinator", "expect"]

SECONDS = 5.0
M = TypeVar("M")


async def expect(link: PeerLink[NodeMessage], kind: type[M]) -> M:
    """The next message, which must be of this kind."""
    async with asyncio.timeout(SECONDS):
        message = await link.receive()
    assert isinstance(message, kind), message
    return message


class FakeNodeCoordinator:
    """`dial` is what a control link is given to reach it; `next_link` gives the far end of what was dialled.

    Attributes:
        dialled: number of attempts.
        failures: raised by the next attempts, one each, before anything is accepted.
    """

    def __init__(self, identity: Identity, node: Identity, clock: Clock) -> None:
        self._identity, self._node, self._clock = identity, node, clock
        self.dialled = 0
        self.failures: list[WanspecError] = []
        self._links: asyncio.Queue[PeerLink[NodeMessage]] = asyncio.Queue()
        self._all: list[PeerLink[NodeMessage]] = []

    async def dial(self) -> PeerLink[CoordinatorToNode]:
        self.dialled += 1
        if self.failures:
            raise self.failures.pop(0)
        here, there = memory_transports()
        far, near = await asyncio.gather(
            accept(
                there,
                AT_COORDINATOR_FROM_NODE,
                identity=self._identity,
                role=Role.COORDINATOR,
                roles=frozenset({Role.NODE}),
                clock=self._clock,
            ),
            connect(
                here,
                AT_NODE_FROM_COORDINATOR,
                identity=self._node,
                role=Role.NODE,
                expect=self._identity.peer_id,
                clock=self._clock,
            ),
        )
        self._all.append(far)
        self._links.put_nowait(far)
        return near

    async def next_link(self) -> tuple[PeerLink[NodeMessage], RegisterNode]:
        """What was dialled, and how the node introduced itself."""
        async with asyncio.timeout(SECONDS):
            link = await self._links.get()
        return link, await expect(link, RegisterNode)

    async def admitted(self, heartbeat: float = 2.0) -> PeerLink[NodeMessage]:
        """The next link, its node taken in."""
        link, _ = await self.next_link()
        await link.send(Registered(pool="default", heartbeat=heartbeat))
        return link

    async def close(self) -> None:
        for link in self._all:
            await link.close()
