"""The draft tree: the trie of all drafted continuations of the prefix, whoever drafted them.

Target and drafter each keep one per session. Equal tokens under the same parent are one node; the first peer to bring
it is its origin, everyone who brought it is a holder. A prefix is named by (length, hash), where
h_0 = H(session) and h_{i+1} = H(h_i || token), so that two sides can speak of a place in the tree without sending it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, TypeAlias

from wanspec_p2p.types import PeerId, SessionId, TokenId

__all__ = ["HASH_BYTES", "ROOT", "DraftTree", "Merge", "Node", "chain_end", "chain_hash", "session_hash"]

HASH_BYTES = 8
ROOT = -1
"""The place after the last committed token; never a node."""


def session_hash(session: SessionId) -> bytes:
    return blake2b(session.encode(), digest_size=HASH_BYTES, person=b"wanspec.prefix").digest()


_EMPTY = blake2b(digest_size=HASH_BYTES, person=b"wanspec.prefix")


def chain_hash(before: bytes, token: TokenId) -> bytes:
    hashed = _EMPTY.copy()
    hashed.update(before + token.to_bytes(4, "little"))
    return hashed.digest()


def chain_end(length: int, prefix_hash: bytes, tokens: Sequence[TokenId]) -> tuple[int, bytes]:
    """The place where a chain of `tokens` after the place (length, hash) ends."""
    for token in tokens:
        prefix_hash = chain_hash(prefix_hash, token)
    return length + len(tokens), prefix_hash


@dataclass(slots=True)
class Node:
    token: TokenId
    parent: int  # node id or ROOT
    length: int  # of the prefix that ends with this token
    hash: bytes
    origin: PeerId
    confidence: int | None
    holders: set[PeerId]
    claims: dict[PeerId, int | None] = field(default_factory=dict)  # everyone's own confidence, whoever came first
    children: dict[TokenId, int] = field(default_factory=dict)
    named: frozenset[PeerId] = frozenset()  # those we told of it, though they may have drafted it before they heard
    told: frozenset[PeerId] = frozenset()  # those who had heard of it before they brought it, if they ever do

    @property
    def drafters(self) -> Collection[PeerId]:
        """Whose doing it is: its holders, or, where they all began anew, its origin."""
        return self.holders or (self.origin,)


@dataclass(frozen=True, slots=True)
class Merge:
    """What became of a draft's tokens; the counts add up to their number."""

    added: int = 0
    duplicate: int = 0  # already in the tree: a copy from another drafter, or sent twice
    late: int = 0  # their position was already settled
    unknown: int = 0  # they hang off a base that is neither committed nor drafted
    surplus: int = 0  # beyond the drafter's window, more than it may name at one place, or outside the vocabulary


class DraftTree:
    """Committed tokens and what is drafted after them.

    Nodes have stable ids for as long as they live; `commit` moves the root and removes what it contradicts.
    """

    def __init__(self, session: SessionId, prefix: Sequence[TokenId]) -> None:
        self._committed: list[TokenId] = []
        self._hashes = [session_hash(session)]
        self._nodes: dict[int, Node] = {}
        self._roots: dict[TokenId, int] = {}
        self._by_hash: dict[bytes, int] = {}
        self._next_id = 0
        self._held: dict[PeerId, int] = {}
        for token in prefix:
            self._append(token)

    @property
    def committed(self) -> Sequence[TokenId]:
        return self._committed

    @property
    def committed_len(self) -> int:
        return len(self._committed)

    @property
    def hash(self) -> bytes:
        """Of the committed prefix."""
        return self._hashes[-1]

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node: int) -> Node:
        return self._nodes[node]

    def __contains__(self, node: int) -> bool:
        return node == ROOT or node in self._nodes

    def __iter__(self) -> Iterator[int]:
        return iter(self._nodes)

    def children(self, node: int) -> dict[TokenId, int]:
        return self._roots if node == ROOT else self._nodes[node].children

    def length(self, node: int) -> int:
        """Of the prefix that ends at `node`."""
        return len(self._committed) if node == ROOT else self._nodes[node].length

    def place(self, node: int) -> tuple[int, bytes]:
        """(length, hash) of the prefix that ends at `node`."""
        if node == ROOT:
            return self.committed_len, self.hash
        return self._nodes[node].length, self._nodes[node].hash

    def living(self, nodes: Iterable[int]) -> list[int]:
        """Those of them that are in the tree; never ROOT."""
        return [node for node in nodes if node in self._nodes]

    def path(self, node: int) -> list[TokenId]:
        """Tokens from below the root down to `node`."""
        tokens: list[TokenId] = []
        while node != ROOT:
            tokens.append(self._nodes[node].token)
            node = self._nodes[node].parent
        tokens.reverse()
        return tokens

    def along(self, tokens: Sequence[TokenId]) -> list[int]:
        """The nodes that `tokens`, after the root, pass through: as many as are in the tree."""
        nodes: list[int] = []
        at = ROOT
        for token in tokens:
            child = self.children(at).get(token)
            if child is None:
                break
            nodes.append(child)
            at = child
        return nodes

    def held_by(self, peer: PeerId) -> int:
        """Nodes this peer brought that are not settled."""
        return self._held.get(peer, 0)

    def add(self, parent: int, token: TokenId, peer: PeerId, confidence: int | None = None) -> tuple[int, bool]:
        """Put `token` below `parent` (a node id or ROOT) on `peer`'s account. Returns its id, and whether it is new."""
        existing = self.children(parent).get(token)
        if existing is None:
            return self._grow(parent, token, peer, confidence), True
        self._join(self._nodes[existing], peer, confidence)
        return existing, False

    def _grow(self, parent: int, token: TokenId, peer: PeerId, confidence: int | None) -> int:
        above = None if parent == ROOT else self._nodes[parent]
        if above is None:
            length, before, siblings = len(self._committed), self._hashes[-1], self._roots
        else:
            length, before, siblings = above.length, above.hash, above.children
        node_id = self._next_id
        self._next_id += 1
        node = Node(token, parent, length + 1, chain_hash(before, token), peer, confidence, {peer}, {peer: confidence})
        self._nodes[node_id] = node
        self._by_hash[node.hash] = node_id
        self._held[peer] = self._held.get(peer, 0) + 1
        siblings[token] = node_id
        return node_id

    def _join(self, node: Node, peer: PeerId, confidence: int | None) -> None:
        if peer not in node.holders:
            node.holders.add(peer)
            node.claims.setdefault(peer, confidence)
            self._held[peer] = self._held.get(peer, 0) + 1

    def find(self, length: int, prefix_hash: bytes) -> int | None:
        """The node (or ROOT) where the prefix (length, hash) ends; None where it is not in the tree."""
        if length == self.committed_len:
            return ROOT if prefix_hash == self.hash else None
        node = self._by_hash.get(prefix_hash)
        return node if node is not None and self._nodes[node].length == length else None

    def merge(
        self,
        peer: PeerId,
        base_len: int,
        base_hash: bytes,
        tokens: Sequence[TokenId],
        parents: Sequence[int],
        confidences: Sequence[int],
        *,
        vocab_size: int,
        max_positions: int,
        max_tokens: int,
        max_children: int,
        bases: Sequence[tuple[int, bytes]] = (),
    ) -> Merge:
        """Take in a draft. It may be late, doubled, wrong or hostile: nothing it holds can make this fail.

        Args:
            parents: an earlier index, -1 (the base) or -2 - j (`bases[j]`); empty means a chain.
            max_positions: how far beyond the committed length this peer may draft.
            max_tokens: how many unsettled nodes it may hold.
            max_children: how many children of one place it may be the first to bring; copies are not counted.
        """
        limits = _Limits(vocab_size, max_positions, max_tokens, max_children)
        roots = [self._base(base_len, base_hash), *(self._base(*base) for base in bases)]
        places: list[_Place] = []
        fates: dict[_Fate, int] = {}
        for i, token in enumerate(tokens):
            parent = _above(i, roots, parents, places)
            place: _Place
            fate: _Fate
            if isinstance(parent, str):
                place = fate = parent
            elif isinstance(parent, _Settled):
                # Follow the committed tokens as far as the draft agrees with them; what disagrees is late and wrong.
                agrees = self._committed[parent.length] == token
                place, fate = self._settled(parent.length + 1) if agrees else "late", "late"
            else:
                place, fate = self._take(peer, parent, token, confidences[i] if i < len(confidences) else None, limits)
            places.append(place)
            fates[fate] = fates.get(fate, 0) + 1
        return Merge(**fates)

    def disown(self, peer: PeerId) -> None:
        """`peer` begins anew and knows of nothing it drafted before; its nodes stay, on nobody's account."""
        for node in self._nodes.values():
            node.holders.discard(peer)
        self._held.pop(peer, None)

    def shed(self, present: Collection[PeerId], most: int, spared: Iterable[int] = ()) -> None:
        """Of the nodes that nobody `present` holds, and that nothing they hold hangs from, keep the `most` oldest.

        Args:
            spared: nodes that stay whatever they are.
        """
        if len(self._nodes) <= most:
            return
        spared = frozenset(spared)
        needed: set[int] = set()  # from these hangs something that does not go
        left: list[int] = []  # newest first: what hangs from a node comes before it
        for node_id in reversed(self._nodes):
            node = self._nodes[node_id]
            if node_id in needed or node_id in spared or not node.holders.isdisjoint(present):
                needed.add(node.parent)
            else:
                left.append(node_id)
        for node_id in left[: max(0, len(left) - most)]:
            node = self._nodes.pop(node_id)
            del self.children(node.parent)[node.token]
            if self._by_hash.get(node.hash) == node_id:  # eight bytes, which somebody may have searched a match for
                del self._by_hash[node.hash]
            for peer in node.holders:
                self._held[peer] -= 1

    def commit(self, tokens: Sequence[TokenId]) -> None:
        """Settle the next positions: the root moves along `tokens`, contradicted branches go."""
        nodes = self.along(tokens)
        root = nodes[-1] if nodes else ROOT
        survivors = dict(self.children(root)) if len(nodes) == len(tokens) else {}
        for token in tokens:
            self._append(token)
        keep: dict[int, Node] = {}
        stack = list(survivors.values())
        for node_id in stack:
            self._nodes[node_id].parent = ROOT
        while stack:
            node_id = stack.pop()
            keep[node_id] = node = self._nodes[node_id]
            stack.extend(node.children.values())
        self._nodes = dict(sorted(keep.items()))
        self._roots = survivors
        self._by_hash = {node.hash: node_id for node_id, node in self._nodes.items()}
        self._held = {}
        for node in self._nodes.values():
            for peer in node.holders:
                self._held[peer] = self._held.get(peer, 0) + 1

    def _append(self, token: TokenId) -> None:
        self._committed.append(token)
        self._hashes.append(chain_hash(self._hashes[-1], token))

    def _settled(self, length: int) -> int | _Settled:
        return ROOT if length == self.committed_len else _Settled(length)

    def _base(self, length: int, prefix_hash: bytes) -> _Place:
        if length <= self.committed_len:
            return self._settled(length) if self._hashes[length] == prefix_hash else "unknown"
        node = self.find(length, prefix_hash)
        return "unknown" if node is None else node

    def _take(
        self, peer: PeerId, parent: int, token: TokenId, confidence: int | None, limits: _Limits
    ) -> tuple[_Place, _Fate]:
        """One token of a draft below a place of the tree."""
        siblings = self.children(parent)
        existing = siblings.get(token)
        if existing is not None and peer in self._nodes[existing].holders:
            return existing, "duplicate"
        beyond = self.length(parent) + 1 - len(self._committed)
        if not 0 <= token < limits.vocab_size or beyond > limits.positions or self.held_by(peer) >= limits.tokens:
            return "surplus", "surplus"
        if existing is not None:
            self._join(self._nodes[existing], peer, confidence)
            return existing, "duplicate"
        if len(siblings) >= limits.children:
            brought = sum(self._nodes[child].origin == peer for child in siblings.values())
            if brought >= limits.children:
                return "surplus", "surplus"
        return self._grow(parent, token, peer, confidence), "added"


@dataclass(frozen=True, slots=True)
class _Limits:
    """Of one peer: see `DraftTree.merge`."""

    vocab_size: int
    positions: int
    tokens: int
    children: int


@dataclass(frozen=True, slots=True)
class _Settled:
    """A place inside the committed prefix."""

    length: int


_Fate: TypeAlias = Literal["added", "duplicate", "late", "unknown", "surplus"]
"""What became of a token: the fields of `Merge`. What hangs below one that was left out shares its fate."""
_Place: TypeAlias = int | _Settled | _Fate


def _above(i: int, roots: Sequence[_Place], parents: Sequence[int], places: Sequence[_Place]) -> _Place:
    """Where token i hangs; a parent that is neither a base nor an earlier token of the draft is unknown."""
    if parents:
        parent = parents[i] if i < len(parents) else i
    else:
        parent = i - 1
    if parent < 0:
        return roots[-1 - parent] if -1 - parent < len(roots) else "unknown"
    return places[parent] if parent < i else "unknown"
