"""Which places of a draft tree a model's cache holds, and the segment that runs the next ones.

A pass leaves its tree nodes in the cache provisionally; what is still in the draft tree is held there from pass to
pass, and what gets committed is kept without being run again (docs/decisions/0012-a-tree-may-grow-over-passes.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wanspec_p2p.speculation.sampling import Row
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import Segment, TokenId

__all__ = ["WarmCache"]


@dataclass(frozen=True, slots=True)
class _Running:
    provisional: tuple[int, ...]  # nodes the cache holds after the pass, by their number in it
    committed: int  # positions of the committed prefix that it holds then
    caught_up: int  # entries of `_behind` that are among them
    places: tuple[tuple[int, bytes], ...]  # where its rows belong, by (length, hash)


class WarmCache:
    """Bookkeeping of one session's cache. One pass at a time: `segment`, then `ran` or nothing more.

    Args:
        cache: the name the model knows it by.
        prefix: committed tokens that have to be run first.
    """

    def __init__(self, cache: str, prefix: Sequence[TokenId]) -> None:
        self._cache = cache
        self._length = 0
        self._index: dict[int, int] = {}  # provisional nodes to their numbers, which ascend
        self._behind: list[tuple[int, TokenId]] = [(ROOT, token) for token in prefix]  # committed since
        self._running: _Running | None = None

    def __contains__(self, node: object) -> bool:
        """Whether this node of the tree, or its root, need not be run again."""
        return self.root_is_run if node == ROOT else node in self._index

    @property
    def root_is_run(self) -> bool:
        """Whether the last committed token is in the cache, so that only tree nodes need to be run."""
        return self._length > 0 and all(node in self._index for node, _ in self._behind)

    def commit(self, tree: DraftTree, tokens: Sequence[TokenId]) -> None:
        """`tokens` are about to be committed in `tree`."""
        self._behind.extend(itertools.zip_longest(tree.along(tokens), tokens, fillvalue=ROOT))

    def segment(self, tree: DraftTree, nodes: Sequence[int]) -> Segment:
        """Run `nodes`, parents first; the parent of each is the root, held here, or earlier in `nodes`.

        Where the last committed token has not been run, it is run first and its row comes first.
        """
        keep: list[int] = []
        tokens: list[TokenId] = []
        for node, token in self._behind:
            number = None if tokens else self._index.get(node)
            if number is None:
                tokens.append(token)
            else:
                keep.append(number)
        survivors = [] if tokens else tree.living(self._index)
        numbers = {node: number for number, node in enumerate(survivors)}
        parents: list[int] = []
        for node in nodes:
            parents.append(numbers.get(tree[node].parent, -1))
            numbers[node] = len(numbers)
        self._running = _Running(
            provisional=tuple(numbers),
            committed=self._length + len(self._behind),
            caught_up=len(self._behind),
            places=tuple(tree.place(node) for node in ((ROOT, *nodes) if tokens else nodes)),
        )
        return Segment(
            cache=self._cache,
            length=self._length,
            keep=tuple(keep),
            tokens=tuple(tokens),
            tree=tuple(tree[node].token for node in nodes),
            parents=tuple(parents),
            held=tuple([self._index[node] for node in survivors]),
        )

    def ran(self, tree: DraftTree, rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
        """The pass is over: each row with its node (or ROOT), those left out that a verdict has contradicted."""
        running, self._running = self._running, None
        assert running is not None
        self._length = running.committed
        self._index = {node: number for number, node in enumerate(running.provisional)}
        del self._behind[: running.caught_up]
        for (length, prefix_hash), row in zip(running.places, rows, strict=True):
            node = tree.find(length, prefix_hash)
            if node is not None:
                yield node, row
