"""A node's link that says more than the node does: drafts twice, and drafts from long ago."""

from __future__ import annotations

import random
from collections import deque

from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.node_to_target import Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.types import PeerId, Role

__all__ = ["Echo"]

REMEMBERED = 64
"""Drafts, of whatever session."""


class Echo:
    """A link that sends each draft twice, and now and then one from long ago.

    Args:
        rng: when, and which one.
        twice: whether each draft is sent again at once.
        late: chance that an old one follows a draft, maybe of a session that has ended since.
    """

    def __init__(
        self, link: Link[NodeToTarget, TargetToNode], rng: random.Random, *, twice: bool = True, late: float = 0.5
    ) -> None:
        self._link, self._rng, self._twice, self._late = link, rng, twice, late
        self._past: deque[Draft] = deque(maxlen=REMEMBERED)

    @property
    def peer(self) -> PeerId:
        return self._link.peer

    @property
    def role(self) -> Role:
        return self._link.role

    @property
    def rtt(self) -> float | None:
        return self._link.rtt

    @property
    def jitter(self) -> float | None:
        return self._link.jitter

    @property
    def greeted(self) -> float | None:
        return self._link.greeted

    async def send(self, message: NodeToTarget) -> None:
        await self._link.send(message)
        if isinstance(message, Draft):
            if self._twice:
                await self._link.send(message)
            self._past.append(message)
            if self._rng.random() < self._late:
                await self._link.send(self._rng.choice(self._past))

    async def receive(self) -> TargetToNode:
        return await self._link.receive()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._link.close(code, reason)
