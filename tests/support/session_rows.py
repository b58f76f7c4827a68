"""What pure session tests run instead of a model: rows that follow from the true prefix, and what must come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.speculation.calibration import RANKS, RankTable
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.speculation.tree import ROOT, DraftTree, chain_hash, session_hash
from wanspec_p2p.types import PeerId, Segment, SessionId, TokenId

__all__ = ["PassModel", "Row", "Rows", "SureTable", "check_tree", "decode_alone", "prefix_hash", "scripted_rows"]

Row: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = Callable[[Sequence[TokenId]], Row]
"""The logits after a prefix."""


def scripted_rows(seed: int, vocab_size: int, *, drift: float = 0.0, scale: float = 2.0, ties: bool = False) -> Rows:
    """Logits that follow from the length and the last two tokens of the true prefix alone.

    Args:
        drift: strength of noise private to a drafter, added to the target's law; 0 is the target itself.
        ties: round to whole numbers, so that equal logits are common.
    """
    memory: dict[tuple[int, ...], Row] = {}

    def row(prefix: Sequence[TokenId]) -> Row:
        key = (len(prefix), *prefix[-2:])
        if key not in memory:
            z = _normal("target", seed, key, vocab_size)
            if drift:
                z = z + drift * _normal("drift", seed, key, vocab_size)
            memory[key] = (np.round(scale * z) if ties else scale * z).astype(np.float32)
        return memory[key]

    return row


def _normal(kind: str, seed: int, key: tuple[int, ...], size: int) -> NDArray[np.float64]:
    digest = blake2b(f"{kind} {seed} {key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).standard_normal(size)


def decode_alone(spec: SessionSpec, rows: Rows) -> list[TokenId]:
    """The answer of the target alone, one token at a time, every sampler fresh. `spec.committed` is part of it."""
    answer = list(spec.committed)
    while len(answer) < spec.max_tokens:
        sampler = Sampler(spec.sampling, spec.seed, spec.vocab_size, spec.prompt, spec.stop_tokens)
        sampler.commit(answer)
        answer.append(sampler.choose(rows((*spec.prompt, *answer))).token)
        if answer[-1] in spec.stop_tokens:
            break
    return answer


def prefix_hash(session: str, tokens: Sequence[TokenId]) -> bytes:
    """h_n, from nothing but the definition."""
    chained = session_hash(SessionId(session))
    for token in tokens:
        chained = chain_hash(chained, token)
    return chained


def check_tree(tree: DraftTree, session: SessionId) -> None:
    """Everything that must hold of a draft tree between two calls, recomputed from its nodes."""
    committed = list(tree.committed)
    assert tree.hash == prefix_hash(session, committed)
    assert tree.place(ROOT) == (len(committed), tree.hash)
    held: dict[PeerId, int] = {}
    reached: set[int] = set()
    todo = [(ROOT, child, token) for token, child in tree.children(ROOT).items()]
    while todo:
        parent, node_id, token = todo.pop()
        length, chained = tree.place(parent)
        node = tree[node_id]
        assert (node.parent, node.token) == (parent, token)
        assert node_id not in reached
        reached.add(node_id)
        assert tree.path(node_id) == [*tree.path(parent), token]
        assert (node.length, node.hash) == (length + 1, chain_hash(chained, token))
        assert tree.find(node.length, node.hash) == node_id
        for holder in node.holders:
            held[holder] = held.get(holder, 0) + 1
        todo.extend((node_id, child, token) for token, child in node.children.items())
    assert reached == set(tree), "a node hangs off nothing"
    assert len(tree) == len(reached)
    peers = {tree[node].origin for node in tree} | held.keys()
    assert {peer: tree.held_by(peer) for peer in peers} == {peer: held.get(peer, 0) for peer in peers}


class PassModel:
    """Runs segments as `LanguageModel.forward` promises to; every row follows from the true prefix."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.cached: list[TokenId] = []
        self._tree: tuple[TokenId, ...] = ()
        self._parents: tuple[int, ...] = ()
        self.passes = 0

    def run(self, segment: Segment) -> list[Row]:
        """Logits after the last of `segment.tokens` if there are any, then after each node of its tree."""
        assert segment.length <= len(self.cached)
        carried = segment.keep or segment.held
        assert not carried or segment.length == len(self.cached), "carried nodes hang below the last token"
        parent = -1
        for index in segment.keep:
            assert self._parents[index] == parent, "kept nodes are a path from the root"
            parent = index
        numbers = {parent: -1}
        for index in segment.held:
            assert self._parents[index] in numbers, "held nodes hang below the new root or below held ones"
            numbers[index] = len(numbers) - 1
        kept = [self._tree[index] for index in segment.keep]
        held = tuple(self._tree[index] for index in segment.held)
        self.cached = [*self.cached[: segment.length], *kept, *segment.tokens]
        self._parents = (*(numbers[self._parents[index]] for index in segment.held), *segment.parents)
        self._tree = held + segment.tree
        self.passes += 1
        paths: list[list[TokenId]] = []
        for token, parent in zip(self._tree, self._parents, strict=True):
            paths.append([*(paths[parent] if parent >= 0 else []), token])
        rows = [self._rows([*self.cached, *path]) for path in paths[len(held) :]]
        return [self._rows(self.cached), *rows] if segment.tokens else rows


class SureTable(RankTable):
    """Takes the first candidate for right, whatever comes of it: a session with this table drafts one chain."""

    def chances(self, sureness: int) -> tuple[float, ...]:
        return (1.0, *(0.0,) * (RANKS - 1))
