"""A coordinator as a node's control link sees it: accepts what is dialled, over memory, and says what a test wants."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from tests.support.dialled_links import DialledCoordinator
from wanspec_p2p.clock import Clock
from wanspec_p2p.links.peer import PeerLink
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


class FakeNodeCoordinator(DialledCoordinator[NodeMessage, CoordinatorToNode]):
    """`dial` is what a control link is given to reach it."""

    def __init__(self, identity: Identity, node: Identity, clock: Clock) -> None:
        codecs = AT_COORDINATOR_FROM_NODE, AT_NODE_FROM_COORDINATOR
        super().__init__(*codecs, identity=identity, peer=node, role=Role.NODE, clock=clock, seconds=SECONDS)

    async def registered(self) -> tuple[PeerLink[NodeMessage], RegisterNode]:
        """The next link, and how the node introduced itself on it."""
        link = await self.next_link()
        return link, await expect(link, RegisterNode)

    async def admitted(self, heartbeat: float = 2.0) -> PeerLink[NodeMessage]:
        """The next link, its node taken in."""
        link, _ = await self.registered()
        await link.send(Registered(pool="default", heartbeat=heartbeat))
        return link
