"""Leases by their `jti`, and by the node and the target they are between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from wanspec_p2p.types import PeerId

__all__ = ["LeaseShelf"]


class _Lease(Protocol):
    @property
    def jti(self) -> str: ...

    @property
    def node(self) -> PeerId: ...

    @property
    def target(self) -> PeerId: ...


L = TypeVar("L", bound=_Lease)


class LeaseShelf(Generic[L]):
    """Asked for a peer's with every heartbeat, and of every candidate of every want.

    Attributes:
        by_jti: all of them; to be read, never written.
    """

    def __init__(self) -> None:
        self.by_jti: dict[str, L] = {}
        self._by_peer: defaultdict[PeerId, dict[str, L]] = defaultdict(dict)

    def __iter__(self) -> Iterator[L]:
        """In the order they were put here; the shelf may change meanwhile."""
        return iter(tuple(self.by_jti.values()))

    @property
    def peers(self) -> frozenset[PeerId]:
        return frozenset(self._by_peer)

    def count(self, peer: PeerId) -> int:
        return len(self._by_peer.get(peer, ()))

    def has(self, peer: PeerId, jti: str) -> bool:
        """Whether it is this node's, or this target's."""
        return jti in self._by_peer.get(peer, ())

    def of(self, peer: PeerId) -> tuple[L, ...]:
        """This node's, or this target's, in the order they were put here."""
        return tuple(self._by_peer.get(peer, {}).values())

    def put(self, lease: L) -> None:
        self.by_jti[lease.jti] = self._by_peer[lease.node][lease.jti] = self._by_peer[lease.target][lease.jti] = lease

    def remove(self, lease: L) -> None:
        del self.by_jti[lease.jti]
        for peer in (lease.node, lease.target):
            del self._by_peer[peer][lease.jti]
            if not self._by_peer[peer]:
                del self._by_peer[peer]
