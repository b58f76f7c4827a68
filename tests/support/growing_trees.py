"""Random passes that grow, promote and drop trees, each with the prefixes that its rows must follow."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wanspec_p2p.types import Segment, TokenId

__all__ = ["GrowingTree", "Prefixes"]

Prefixes = list[list[TokenId]]
"""Per row of a pass, every token from the start of the text up to the row's own."""


class GrowingTree:
    """One cache's history, told in whole prefixes: it shares nothing with the engines but `Segment` itself.

    Every method returns the segment to run next and the prefix of each of its rows.

    Args:
        deep: share of new nodes that hang below the node before them; the others hang anywhere.
        context: nodes that would lie beyond this position hang below the root instead.
    """

    def __init__(
        self, draw: random.Random, cache: str, *, vocab_size: int, deep: float = 0.5, context: int = 2**31
    ) -> None:
        self._draw, self._cache, self._vocab_size, self._deep, self._context = draw, cache, vocab_size, deep, context
        self._prefixes: Prefixes = [[]]  # of every node there ever was, roots included
        self._above = [-1]
        self._root = 0
        self._nodes: list[int] = []  # the provisional ones, in `Segment`'s numbering

    @property
    def committed(self) -> list[TokenId]:
        return self._prefixes[self._root]

    @property
    def deepest(self) -> int:
        """Length of the longest prefix the cache knows."""
        return max(len(self._prefixes[node]) for node in (self._root, *self._nodes))

    def start(self, prompt: Sequence[TokenId], width: int) -> tuple[Segment, Prefixes]:
        """Run `prompt` after what is committed, and a new tree of `width` nodes."""
        return self._pass((), prompt, (), width)

    def grow(self, width: int) -> tuple[Segment, Prefixes]:
        """Hold every node and add `width`."""
        return self._pass((), (), range(len(self._nodes)), width)

    def promote(self, width: int, steps: int, *, hold: float = 1.0) -> tuple[Segment, Prefixes]:
        """Commit up to `steps` nodes on the way to a deepest one, hold what is below the last, and add `width`.

        Args:
            hold: the chance of each node below to stay, unless one above it goes.
        """
        path: list[int] = []
        node = max((self._root, *self._nodes), key=lambda node: len(self._prefixes[node]))
        while node != self._root:
            path.insert(0, node)
            node = self._above[node]
        keep = tuple(self._nodes.index(node) for node in path[:steps])
        root = self._nodes[keep[-1]] if keep else self._root
        stays, held = {root}, []
        for number, node in enumerate(self._nodes):
            if number not in keep and self._above[node] in stays and self._draw.random() < hold:
                stays.add(node)
                held.append(number)
        return self._pass(keep, (), held, width)

    def crop(self, width: int, back: int, tokens: int) -> tuple[Segment, Prefixes]:
        """Forget the tree and the last `back` committed tokens, run `tokens` random ones and a tree of `width`."""
        kept = self.committed[: max(1, len(self.committed) - back)]
        self._root = self._add(kept, -1)
        return self._pass((), [self._draw.randrange(self._vocab_size) for _ in range(tokens)], (), width)

    def step(self, width: int) -> tuple[Segment, Prefixes]:
        """Any pass that may follow the first, adding `width` nodes, 1 or more."""
        kind, draw = self._draw.random(), self._draw
        if kind < 0.45:
            return self.grow(width)
        if kind < 0.8:
            return self.promote(width, draw.randint(0, 4), hold=draw.choice((0.0, 0.6, 1.0)))
        return self.crop(width, draw.choice((0, 3)), draw.randint(0, 2))

    def _pass(
        self, keep: Sequence[int], tokens: Sequence[TokenId], held: Sequence[int], width: int
    ) -> tuple[Segment, Prefixes]:
        length = len(self.committed)
        rows: Prefixes = []
        if keep:
            self._root = self._nodes[keep[-1]]
        if tokens:
            self._root = self._add([*self.committed, *tokens], self._root)
            rows.append(self.committed)
        self._nodes = [self._nodes[number] for number in held]
        tree, parents = [], []
        for _ in range(width):
            parent = (
                len(self._nodes) - 1 if self._draw.random() < self._deep else self._draw.randrange(-1, len(self._nodes))
            )
            above = self._nodes[parent] if parent >= 0 else self._root
            if len(self._prefixes[above]) == self._context:
                parent, above = -1, self._root
            tree.append(self._draw.randrange(self._vocab_size))
            parents.append(parent)
            self._nodes.append(self._add([*self._prefixes[above], tree[-1]], above))
            rows.append(self._prefixes[-1])
        segment = Segment(
            self._cache, length, tuple(keep), tuple(tokens), tuple(tree), tuple(parents), held=tuple(held)
        )
        return segment, rows

    def _add(self, prefix: list[TokenId], above: int) -> int:
        self._prefixes.append(prefix)
        self._above.append(above)
        return len(self._prefixes) - 1
