"""What a cache holds and which segment fits it: the one definition of `Segment`'s rules, shared by every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.types import Segment, TokenId

__all__ = ["CachedTokens", "check_batch", "tree_depths", "tree_path"]


def tree_path(parents: Sequence[int], node: int) -> tuple[int, ...]:
    """The nodes from the root's child down to `node`, `node` included."""
    path = [node]
    while (parent := parents[path[-1]]) != -1:
        path.append(parent)
    return tuple(reversed(path))


def tree_depths(parents: Sequence[int]) -> list[int]:
    """How many positions below the last token each node lies; a root's child is 1."""
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent == -1 else depths[parent] + 1)
    return depths


class CachedTokens:
    """The token ids one cache stands for: those appended for good, and the provisional tree of the last pass."""

    def __init__(self) -> None:
        self.tokens: list[TokenId] = []
        self.tree: tuple[TokenId, ...] = ()
        self.parents: tuple[int, ...] = ()

    def check(self, segment: Segment, *, vocab_size: int, context: int) -> None:
        """Change nothing.

        Raises:
            LocalProtocolError: `segment` does not fit this cache, the context or the vocabulary.
        """
        held = len(self.tokens)
        if segment.length > held:
            raise LocalProtocolError(f"cache {segment.cache} holds {held} positions, not {segment.length}")
        if segment.keep:
            self._check_keep(segment)
        if any(not 0 <= token < vocab_size for token in (*segment.tokens, *segment.tree)):
            raise LocalProtocolError(f"a token id lies outside the vocabulary of {vocab_size}")
        end = segment.length + len(segment.keep) + len(segment.tokens) + max(tree_depths(segment.parents), default=0)
        if end > context:
            raise LocalProtocolError(f"the pass reaches position {end}, the context ends at {context}")

    def _check_keep(self, segment: Segment) -> None:
        if segment.length != len(self.tokens):
            raise LocalProtocolError(
                f"the last tree follows position {len(self.tokens)}, not {segment.length}: crop or keep, not both"
            )
        above = -1
        for node in segment.keep:
            if not 0 <= node < len(self.tree):
                raise LocalProtocolError(f"the last tree has {len(self.tree)} nodes, none with index {node}")
            if self.parents[node] != above:
                raise LocalProtocolError(f"keep {segment.keep} is no path from the root of the last tree")
            above = node

    def apply(self, segment: Segment) -> None:
        """Take a checked segment in: crop, keep, append, and remember its tree."""
        del self.tokens[segment.length :]
        self.tokens.extend(self.tree[node] for node in segment.keep)
        self.tokens.extend(segment.tokens)
        self.tree, self.parents = segment.tree, segment.parents


def check_batch(batch: Sequence[Segment], caches: Mapping[str, CachedTokens], *, vocab_size: int, context: int) -> None:
    """Check a whole batch before any cache changes, so that a refused batch leaves every cache as it was.

    Raises:
        LocalProtocolError: as `CachedTokens.check`, or one cache is named twice.
    """
    if len({segment.cache for segment in batch}) != len(batch):
        raise LocalProtocolError("a batch names the same cache twice")
    for segment in batch:
        caches.get(segment.cache, CachedTokens()).check(segment, vocab_size=vocab_size, context=context)
