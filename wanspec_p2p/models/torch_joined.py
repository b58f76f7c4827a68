"""One forward pass over rows of several segments: only attention and the caches tell them apart.

Linear layers, norms and the head treat every row alike, so they run over the rows of all segments, one segment after
the other, and read the weights once. Each segment attends with a plan of its own over slots of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.torch_attention import Plan
from wanspec_p2p.models.torch_cache import PassCache

__all__ = ["JoinedCache", "by_segment"]

CHANGING = ("s_aux", "sinks", "softcap", "position_bias", "indices", "block_indices")
"""What transformers hands an attention that is more than a softmax over all keys: ours has none of it."""


class JoinedCache:
    """The `PassCache`s of all segments of a pass as transformers' attention modules see them.

    Args:
        rows: of each segment; what follows in the pass is padding, and not stored.
    """

    is_compileable = False

    def __init__(self, caches: Sequence[PassCache], rows: Sequence[int]) -> None:
        self._caches = caches
        self._bounds = list(itertools.pairwise(itertools.accumulate(rows, initial=0)))

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Store keys and values of shape (1, heads, rows, head), each row in its segment's cache.

        Returns:
            What `PassCache.update` returns, for each segment.
        """
        all_keys, all_values = [], []
        for cache, (start, stop) in zip(self._caches, self._bounds, strict=True):
            seen_keys, seen_values = cache.update(keys[:, :, start:stop], values[:, :, start:stop], layer)
            all_keys.append(seen_keys)
            all_values.append(seen_values)
        return all_keys, all_values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(cache.get_seq_length(layer_idx) for cache in self._caches)


def by_segment(attend: Callable[..., tuple[Tensor, None]]) -> Callable[..., tuple[Tensor, None]]:
    """transformers' attention interface over what `JoinedCache.update` returns, with `attend` for each segment.

    `attend` is one of those of `torch_attention`. The pass hands `wanspec_plans` in, one for each segment.

    Raises (what is returned):
        ModelError: the model asks for more than plain causal attention; the self-test's first pass finds out.
    """

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        attention_mask: Tensor | None,
        *,
        scaling: float,
        wanspec_plans: Sequence[Plan] = (),
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        _check_plain({"attention_mask": attention_mask, **kwargs}, planned=bool(wanspec_plans))
        rows = query.shape[2]
        starts = list(itertools.accumulate((plan.real for plan in wanspec_plans[:-1]), initial=0))
        # A plan's padding rows may be anything, their results are dropped: the next segments' rows, zeros at the end.
        lacking = starts[-1] + wanspec_plans[-1].rows - rows
        if lacking > 0:
            query = torch.nn.functional.pad(query, (0, 0, 0, lacking))
        outs = []
        for plan, own_keys, own_values, start, stop in zip(
            wanspec_plans, keys, values, starts, [*starts[1:], rows], strict=True
        ):
            own = query[:, :, start : start + plan.rows]
            out, _ = attend(module, own, own_keys, own_values, None, scaling=scaling, wanspec_plan=plan)
            outs.append(out[:, : stop - start])
        joined = torch.cat(outs, 1) if len(outs) > 1 else outs[0]
        lacking = rows - joined.shape[1]
        return (torch.nn.functional.pad(joined, (0, 0, 0, 0, 0, lacking)) if lacking else joined), None

    return attention


def _check_plain(arguments: Mapping[str, object], *, planned: bool) -> None:
    odd = [name for name in ("attention_mask", *CHANGING) if arguments.get(name) is not None]
    if odd:
        raise ModelError(f"this model is not supported: its attention asks for `{odd[0]}`, which ours does not compute")
    if not planned:
        raise ModelError("this model is not supported: it does not hand its attention what a pass adds to the call")
