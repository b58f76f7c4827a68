"""A target as a node's draft link sees it: accepts what is dialled, over memory, and says what a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from node.lease_checks import Held
from tests.support.dialled_links import DialledLinks
from tests.support.session_rows import prefix_hash
from wanspec_p2p.clock import Clock
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.protocol.node_to_target import Attach, Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict, Window
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role, Sampling, TokenId

__all__ = ["FakeDraftTarget"]

SECONDS = 5.0


class FakeDraftTarget(DialledLinks[NodeToTarget]):
    """`dial` is what a draft link is given to reach it.

    Attributes:
        dialled: (jti of the lease, address) of every attempt.
    """

    def __init__(self, identity: Identity, node: Identity, clock: Clock) -> None:
        super().__init__(AT_TARGET_FROM_NODE, identity=identity, role=Role.TARGET, clock=clock, seconds=SECONDS)
        self._node = node
        self.dialled: list[tuple[str, str]] = []

    async def dial(self, lease: Held, address: str) -> PeerLink[TargetToNode]:
        self.dialled.append((lease.claims.jti, address))
        return await self.connected(
            AT_NODE_FROM_TARGET, identity=self._node, role=Role.NODE, expect=lease.claims.target
        )

    async def time(self, landmark: Landmark) -> float:
        """Seconds; the same every time."""
        return 0.02

    async def attached(self) -> tuple[PeerLink[NodeToTarget], str]:
        """The next link, and the lease it was attached with."""
        link = await self.next_link()
        async with asyncio.timeout(SECONDS):
            message = await link.receive()
        assert isinstance(message, Attach), message
        return link, message.lease

    @staticmethod
    def open(session: int, prefix: Sequence[TokenId], *, name: str = "s", window: int = 8) -> Open:
        """Greedy, everything prompt."""
        return Open(
            session=session,
            id=name,
            prefix=tuple(prefix),
            prompt_len=len(prefix),
            seed=bytes(16),
            sampling=Sampling(),
            stop_tokens=(),
            window=Window(window, window),
        )

    @staticmethod
    def verdict(session: int, committed: Sequence[TokenId], tail: int, *, name: str = "s", window: int = 8) -> Verdict:
        """`committed` is the whole prefix now; the drafter is told its last `tail` tokens."""
        return Verdict(
            session=session,
            committed_len=len(committed),
            tail=tuple(committed[len(committed) - tail :]),
            hash=prefix_hash(name, committed),
            window=Window(window, window),
        )

    @staticmethod
    async def drafted(link: PeerLink[NodeToTarget], session: int, count: int) -> list[TokenId]:
        """The next `count` tokens of a session; fails on anything else that is said."""
        tokens: list[TokenId] = []
        async with asyncio.timeout(SECONDS):
            while len(tokens) < count:
                message = await link.receive()
                assert isinstance(message, Draft), message
                assert message.session == session
                tokens += message.tokens
        return tokens

    @staticmethod
    def close_session(session: int) -> Close:
        return Close(session=session)
