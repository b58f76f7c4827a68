"""Attention whose result for a row depends on the row's own keys and their order alone (docs/topics/exactness.md).

A row at position p sees keys 0..p. Weights are exp(score - max) in float32; the weighted values are summed per chunk
of 128 positions, each chunk's partial sum in position order, and the partial sums are added in order. Which slots the
keys lie in, what lies between them (weights of exactly zero) and how many rows share the pass does not matter, as long
as the matrix product adds its terms one after the other. BLAS libraries do so up to some number of terms (192 were
seen to be safe); the self-test finds out, and `Tail.GATHERED` copies each row's keys together where they do not.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wanspec_p2p.models.segments import tree_depths
from wanspec_p2p.models.torch_cache import ONES

__all__ = ["CHUNK", "EXACT", "FAST", "Plan", "Tail", "exact_attention", "fast_attention", "make_plan"]

EXACT, FAST = "wanspec_exact", "wanspec_fast"
CHUNK = 128
SHARED_SLOTS = 192
"""Longest run of slots that one product may sum when keys of other rows lie between a row's own."""
SLOT_MULTIPLE = 32
ROW_MULTIPLE = 4


class Tail(enum.Enum):
    """How the last, partial chunk of a tree pass is summed."""

    SHARED = "shared"  # one product over the prefix tail and every node, others' weights being zero
    GATHERED = "gathered"  # each row's own values copied together, then a product of one shape


@dataclass(frozen=True, slots=True)
class Span:
    """Slots start..stop of one positional chunk; `chosen` (0 or 1 per slot) where they hold other chunks too."""

    start: int
    stop: int
    chosen: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """Slots of each row's last chunks in position order: `slots` and `valid` have shape (rows, chunks · 128)."""

    slots: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a pass needs besides its token ids; built once, used by every layer."""

    real: int  # rows that count
    rows: int  # padded
    visible: int  # slots looked at, padded
    positions: NDArray[np.int64]  # (rows,)
    mask: Tensor  # (1, groups · rows, visible) float32 for exact attention; (1, 1, rows, visible) for the fast one
    spans: tuple[Span, ...]
    gather: Gather | None


def make_plan(
    start: int,
    tokens: int,
    parents: tuple[int, ...],
    *,
    groups: int,
    exact: bool,
    tail: Tail,
    device: torch.device,
    held: int = 0,
) -> Plan:
    """Lay out a pass of `tokens` chained rows and a tree below the last, or below the slots before `start`.

    The committed slots end at `start`. `held` slots of provisional nodes follow, then those of the pass's rows.

    Args:
        parents: of every provisional node, held ones first.
        groups: query heads per key-value head.
        held: only without `tokens`.
    """
    filled = tokens + len(parents)  # slots from `start` on that hold keys when the pass has written its own
    real = filled - held
    rows = -(-real // ROW_MULTIPLE) * ROW_MULTIPLE
    visible = -(-(start + held + rows) // SLOT_MULTIPLE) * SLOT_MULTIPLE
    by_slot = np.arange(start, start + filled)
    by_slot[tokens:] = [start + tokens - 1 + depth for depth in tree_depths(parents)]
    positions = np.zeros(rows, np.int64)
    positions[:real] = by_slot[held:]
    sees = _visibility(start, tokens, parents, held, rows, visible)
    mask = torch.from_numpy(np.where(sees, np.float32(0), np.float32(-np.inf))).to(device)
    spans: tuple[Span, ...] = ()
    gather = None
    if exact:
        chain = all(parent == i - 1 for i, parent in enumerate(parents))
        whole = visible if chain else start // CHUNK * CHUNK
        spans = tuple(Span(at, min(at + CHUNK, visible)) for at in range(0, whole, CHUNK))
        if not chain and tail is Tail.SHARED and visible - whole <= SHARED_SLOTS:
            spans += _shared_spans(whole, visible, start, by_slot, device)
        elif not chain:
            gather = _gather(whole, sees[:real], start, positions[:real], rows, device)
        mask = mask.repeat(groups, 1).unsqueeze(0)
    else:
        mask = mask[None, None]
    return Plan(real, rows, visible, positions, mask, spans, gather)


def _visibility(
    start: int, tokens: int, parents: tuple[int, ...], held: int, rows: int, visible: int
) -> NDArray[np.bool_]:
    """Which slots each row sees. Padding rows see slot 0: their softmax must not be empty, their result is dropped."""
    sees = np.zeros((held + rows, visible), np.bool_)  # the held nodes' too: what hangs below them sees the same
    filled = tokens + len(parents)
    sees[:filled, :start] = True
    for row in range(tokens):
        sees[row, start : start + row + 1] = True
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[tokens + node] = sees[tokens + parent]
        else:
            sees[tokens + node, start : start + tokens] = True
        sees[tokens + node, start + tokens + node] = True
    sees[filled:, 0] = True
    return sees[held:]


def _shared_spans(
    first: int, visible: int, start: int, positions: NDArray[np.int64], device: torch.device
) -> tuple[Span, ...]:
    """One span per positional chunk over the same slots; where there is one chunk only, nothing needs choosing."""
    chunks = np.full(visible - first, -1)
    chunks[: start - first] = first // CHUNK
    chunks[start - first : start - first + len(positions)] = positions // CHUNK
    present = range(first // CHUNK, int(positions.max()) // CHUNK + 1)
    if len(present) == 1:
        return (Span(first, visible),)
    return tuple(
        Span(first, visible, torch.from_numpy((chunks == chunk).astype(np.float32)).to(device)) for chunk in present
    )


def _gather(
    first: int, sees: NDArray[np.bool_], start: int, positions: NDArray[np.int64], rows: int, device: torch.device
) -> Gather:
    chunks = int(positions.max()) // CHUNK - first // CHUNK + 1
    slots = np.zeros((rows, chunks * CHUNK), np.int64)
    valid = np.zeros((rows, chunks * CHUNK), np.float32)
    for row, seen in enumerate(sees):
        # Slots rise with position along a path: a parent's row comes before its child's.
        own = np.flatnonzero(seen[first:]) + first
        slots[row, : len(own)] = own
        valid[row, : len(own)] = 1
    valid[len(sees) :, 0] = 1  # padding rows: slot 0, as in the mask
    return Gather(torch.from_numpy(slots).to(device), torch.from_numpy(valid).to(device))


def exact_attention(
    module: torch.nn.Module,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    wanspec_plan: Plan,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' attention interface over what `PassCache.update` returns.

    Args:
        query: (1, heads, rows, head).
        keys: (key-value heads, visible, head); values: (key-value heads, visible, head + ONES).

    Returns:
        (1, rows, heads, head) in the query's dtype, and no weights.
    """
    _, heads, rows, head = query.shape
    kv_heads = keys.shape[0]
    scaled = (query.float() * scaling).reshape(kv_heads, -1, head)
    keys, values = keys.float(), values.float()
    weights = torch.baddbmm(wanspec_plan.mask, scaled, keys.transpose(1, 2))
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    total: Tensor | None = None
    for span in wanspec_plan.spans:
        part = weights[:, :, span.start : span.stop]
        if span.chosen is not None:
            part = part * span.chosen
        partial = torch.bmm(part, values[:, span.start : span.stop])
        total = partial if total is None else total.add_(partial)
    if wanspec_plan.gather is not None:
        for partial in _gathered_partials(weights, values, wanspec_plan.gather, rows):
            total = partial if total is None else total.add_(partial)
    assert total is not None
    out = total[:, :, :head] / total[:, :, head : head + 1]
    return out.view(heads, rows, head).transpose(0, 1).unsqueeze(0).to(query.dtype), None


def _gathered_partials(weights: Tensor, values: Tensor, gather: Gather, rows: int) -> list[Tensor]:
    """Partial sums of the last chunks, each row over its own values: (key-value heads, groups · rows, width) each."""
    kv_heads, _, visible = weights.shape
    length = gather.slots.shape[1]
    grouped = weights.view(kv_heads, -1, rows, visible).transpose(1, 2)  # heads, rows, groups, visible
    groups = grouped.shape[2]
    index = gather.slots[None, :, None, :].expand(kv_heads, rows, groups, length)
    own = grouped.gather(3, index) * gather.valid[None, :, None, :]
    if groups % ROW_MULTIPLE:  # products of fewer rows take another path in some libraries
        own = torch.nn.functional.pad(own, (0, 0, 0, ROW_MULTIPLE - groups % ROW_MULTIPLE))
    own_values = values[:, gather.slots]  # heads, rows, length, width
    partials = []
    for at in range(0, length, CHUNK):
        product = torch.matmul(own[..., at : at + CHUNK], own_values[:, :, at : at + CHUNK])
        partials.append(product[:, :, :groups].transpose(1, 2).reshape(kv_heads, groups * rows, -1))
    return partials


def fast_attention(
    module: torch.nn.Module,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    wanspec_plan: Plan,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The same interface over torch's own fused attention: faster, and bound to the shape of the pass."""
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        keys[None],
        values[None, :, :, :-ONES],
        attn_mask=wanspec_plan.mask.to(query.dtype),
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[0],
    )
    return out.transpose(1, 2), None
