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
    """The token ids one cache stands for: those committed, and the provisional nodes of the last pass.

    Attributes:
        tree, parents: the provisional nodes in `Segment`'s numbering, the held ones first; a root's child names -1.
    """

    def __init__(self) -> None:
        self.tokens: list[TokenId] = []
        self.tree: tuple[TokenId, ...] = ()
        self.parents: tuple[int, ...] = ()

    def check(self, segment: Segment, *, vocab_size: int, context: int) -> None:
        """Change nothing.

        Raises:
            LocalProtocolError: `segment` does not fit this cache, the context or the vocabulary.
        """
        length = len(self.tokens)
        if segment.length > length:
            raise LocalProtocolError(f"cache {segment.cache} holds {length} positions, not {segment.length}")
        if segment.keep or segment.held:
            self._check_nodes(segment)
        if any(not 0 <= token < vocab_size for token in (*segment.tokens, *segment.tree)):
            raise LocalProtocolError(f"a token id lies outside the vocabulary of {vocab_size}")
        base = segment.length + len(segment.keep) + len(segment.tokens)
        if base + len(segment.held) + len(segment.tree) > context:  # or else no tree of so many is too deep
            end = base + max(tree_depths(self._parents_after(segment)), default=0)
            if end > context:
                raise LocalProtocolError(f"the pass reaches position {end}, the context ends at {context}")

    def _check_nodes(self, segment: Segment) -> None:
        if segment.length != len(self.tokens):
            does = "keep" if segment.keep else "hold"
            raise LocalProtocolError(
                f"the last tree follows position {len(self.tokens)}, not {segment.length}: crop or {does}, not both"
            )
        for node in (*segment.keep, *segment.held[:1], *segment.held[-1:]):  # `held` ascends
            if not 0 <= node < len(self.tree):
                raise LocalProtocolError(f"the last tree has {len(self.tree)} nodes, none with index {node}")
        root = -1
        for node in segment.keep:
            if self.parents[node] != root:
                raise LocalProtocolError(f"keep {segment.keep} is no path from the root of the last tree")
            root = node
        above = {root, *segment.held}  # a parent's number is below its child's, so it is an earlier one of `held`
        loose = [node for node in segment.held if self.parents[node] not in above]
        if loose:
            raise LocalProtocolError(f"held node {loose[0]} hangs below neither the new root nor a held node")

    def _parents_after(self, segment: Segment) -> tuple[int, ...]:
        """Parents of the provisional nodes once a segment with valid `keep` and `held` has run."""
        number = {node: i for i, node in enumerate(segment.held)}
        number[segment.keep[-1] if segment.keep else -1] = -1
        return (*[number[self.parents[node]] for node in segment.held], *segment.parents)

    def apply(self, segment: Segment) -> None:
        """Take a checked segment in: crop, keep, hold, append, and remember its tree."""
        held = tuple([self.tree[node] for node in segment.held])
        parents = self._parents_after(segment)
        del self.tokens[segment.length :]
        self.tokens.extend(self.tree[node] for node in segment.keep)
        self.tokens.extend(segment.tokens)
        self.tree, self.parents = held + segment.tree, parents

    def path(self, node: int) -> list[TokenId]:
        """The tokens from the root's child down to provisional node `node`, its own included."""
        return [self.tree[above] for above in tree_path(self.parents, node)]

    def row_paths(self, segment: Segment) -> list[list[TokenId]]:
        """For each row of the pass of `segment`, just applied: the provisional tokens it follows, its own included."""
        paths = [self.path(node) for node in range(len(segment.held), len(self.tree))]
        return [[], *paths] if segment.tokens else paths


def check_batch(batch: Sequence[Segment], caches: Mapping[str, CachedTokens], *, vocab_size: int, context: int) -> None:
    """Check a whole batch before any cache changes, so that a refused batch leaves every cache as it was.

    Raises:
        LocalProtocolError: as `CachedTokens.check`, or one cache is named twice.
    """
    if len({segment.cache for segment in batch}) != len(batch):
        raise LocalProtocolError("a batch names the same cache twice")
    for segment in batch:
        caches.get(segment.cache, CachedTokens()).check(segment, vocab_size=vocab_size, context=context)
