"""Keys and values of one session, laid out for exact attention, with rollback and the kept path of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ONES", "CacheShape", "PassCache", "SessionCache"]

ONES = 16
"""Columns of ones behind each value: the product with the weights then sums the weights in the values' own order."""
FIRST_SLOTS = 512


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a slot holds: for every layer and key-value head, `head` key columns, `head` value columns, ones."""

    layers: int
    heads: int
    head: int
    dtype: torch.dtype
    device: torch.device


class SessionCache:
    """A growing block of slots, shape (layers, key-value heads, slots, 2 · head + ONES).

    Slot p < length holds absolute position p. Behind them lie `held` slots of nodes that stayed provisional; the rows
    of a pass are written behind those, in row order, and stay provisional until `commit` or `keep` moves the length
    past them. A node's slot comes after its parent's, wherever it is copied to.
    """

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.length = 0
        self.held = 0
        self.block = self._allocate(FIRST_SLOTS)
        self._nodes_start = 0

    @torch.inference_mode(False)  # a block that grows during a pass is written to between passes as well
    def _allocate(self, slots: int) -> Tensor:
        # Zeros, because a masked slot's value is multiplied by zero, and zero times an uninitialised NaN is NaN.
        shape = self.shape
        width = 2 * shape.head + ONES
        block = torch.zeros(shape.layers, shape.heads, slots, width, dtype=shape.dtype, device=shape.device)
        block[..., 2 * shape.head :] = 1
        return block

    def reserve(self, slots: int) -> None:
        """Make room for `slots` slots in all; doubling keeps the copies linear in the final length."""
        held = self.block.shape[2]
        if slots > held:
            grown = self._allocate(max(slots, 2 * held))
            grown[:, :, :held] = self.block  # provisional rows included: a long prompt takes several passes
            self.block = grown

    def crop(self, length: int) -> None:
        self.length = min(self.length, length)

    def commit(self, rows: int) -> None:
        """The first `rows` rows of the last pass stay; the provisional nodes, held ones first, follow them."""
        self.length += rows
        self.held = 0  # until `keep` says which of the nodes the next pass holds
        self._nodes_start = self.length

    def keep(self, nodes: Sequence[int], held: Sequence[int] = ()) -> None:
        """Append the path `nodes` of the last pass's provisional nodes, and put `held` behind it; the others are gone.

        Their slots must not have been overwritten since.
        """
        slots = [self._nodes_start + node for node in (*nodes, *held)]
        start, end = self.length, self.length + len(slots)
        if slots != list(range(start, end)):
            source = torch.tensor(slots, device=self.shape.device)
            self.block[:, :, start:end] = self.block.index_select(2, source)  # a copy first: they may overlap
        self.length += len(nodes)
        self.held = len(held)


class PassCache:
    """A `SessionCache` as transformers' attention modules see it during one pass: `update` writes, returns what to see.

    Args:
        start: the first slot of the pass's rows.
        visible: slots from 0 that the pass looks at.
    """

    is_compileable = False

    def __init__(self, cache: SessionCache, start: int, visible: int) -> None:
        self._block = cache.block
        self._head = cache.shape.head
        self._start = start
        self._visible = visible

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of shape (1, heads, rows, head).

        Returns:
            Keys (heads, visible, head) and values with their ones (heads, visible, head + ONES), as views.
        """
        block, head, start = self._block[layer], self._head, self._start
        end = start + keys.shape[2]
        block[:, start:end, :head] = keys[0]
        block[:, start:end, head : 2 * head] = values[0]
        seen = block[:, : self._visible]
        return seen[..., :head], seen[..., head:]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._start
