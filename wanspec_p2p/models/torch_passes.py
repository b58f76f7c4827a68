"""From segments to forward passes of one transformers model: synchronous, and without bookkeeping of names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanspec_p2p.models.base import Rows
from wanspec_p2p.models.torch_attention import (
    EXACT,
    FAST,
    ROW_MULTIPLE,
    Tail,
    exact_attention,
    fast_attention,
    make_plan,
)
from wanspec_p2p.models.torch_cache import CacheShape, PassCache, SessionCache
from wanspec_p2p.models.torch_loading import check_attention
from wanspec_p2p.types import TokenId

__all__ = ["PREFILL_ROWS", "Passes", "attention_name"]

PREFILL_ROWS = 128
"""Rows of one prefill pass: enough to keep the cores busy, few enough to share the model between sessions."""
TREE_ROWS = 64
"""Up to this many rows, tokens before a tree run in the tree's own pass."""


def attention_name(*, exact: bool) -> str:
    """Register our attention with transformers and return the name `from_pretrained` knows it by."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name, function = (EXACT, exact_attention) if exact else (FAST, fast_attention)
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    return name


class Passes:
    """Runs passes of `model`, which must have been loaded with `attention_name(exact=exact)`.

    Args:
        vocab_size: width of the rows handed out: columns beyond it are padding and cut off, columns the model
            lacks are minus infinity.

    Raises:
        ModelError: an architecture whose attention is not plain causal attention over its whole context.
    """

    def __init__(self, model: Any, *, vocab_size: int, exact: bool) -> None:
        config = model.config
        self.model = model
        self.exact = exact
        self.tail = Tail.SHARED
        self._vocab_size = vocab_size
        self._device: torch.device = model.device
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self._groups = heads // kv_heads
        # On a CPU the keys are wanted in float32 at every pass; elsewhere memory counts for more.
        dtype = torch.float32 if exact and self._device.type == "cpu" else model.dtype
        self._shape = CacheShape(
            layers=int(config.num_hidden_layers),
            heads=kv_heads,
            head=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            dtype=dtype,
            device=self._device,
        )
        check_attention(model)

    def new_cache(self) -> SessionCache:
        return SessionCache(self._shape)

    def run(
        self, cache: SessionCache, tokens: Sequence[TokenId], tree: Sequence[TokenId] = (), parents: Sequence[int] = ()
    ) -> Rows:
        """Append `tokens`, run `tree` below the last of them, return the rows `Segment` promises.

        Args:
            parents: of every provisional node: first of the `cache.held` held ones, then of `tree`.
        """
        ids = [*tokens, *tree]
        start, held = cache.length + cache.held, cache.held
        first = max(len(tokens) - 1, 0)
        if all(parent == node - 1 for node, parent in enumerate(parents)):
            # Held nodes and tree lie one below the other: every slot is its position, as if all were committed.
            done = (len(ids) - 1) // PREFILL_ROWS * PREFILL_ROWS
            chained, parents, held = len(ids), (), 0
        else:
            done = 0 if len(ids) <= TREE_ROWS else first
            chained = len(tokens)
        wanted: list[Tensor] = []
        for at in range(0, done, PREFILL_ROWS):
            block = ids[at : min(at + PREFILL_ROWS, done)]
            rows = self._pass(cache, start + at, block, len(block), (), first - at)
            if rows is not None:
                wanted.append(rows)
        last = self._pass(cache, start + done, ids[done:], chained - done, tuple(parents), first - done, held)
        assert last is not None
        wanted.append(last)
        cache.commit(len(tokens))
        return self._hand_out(torch.cat(wanted) if len(wanted) > 1 else last)

    @torch.inference_mode()
    def _pass(
        self,
        cache: SessionCache,
        start: int,
        ids: list[TokenId],
        tokens: int,
        parents: tuple[int, ...],
        first_wanted: int,
        held: int = 0,
    ) -> Tensor | None:
        """One forward pass of rows from slot `start` on, the last `held` slots before it being held nodes.

        Returns:
            Logits of the rows from `first_wanted` on, or None where no row of this pass is wanted.
        """
        plan = make_plan(
            start - held,
            tokens,
            parents,
            groups=self._groups,
            exact=self.exact,
            tail=self.tail,
            device=self._device,
            held=held,
        )
        cache.reserve(plan.visible)
        rows = len(ids)
        padded = ids + [0] * (plan.rows - rows)
        arguments = {
            "input_ids": torch.tensor([padded], device=self._device),
            "position_ids": torch.from_numpy(plan.positions).to(self._device).unsqueeze(0),
            "past_key_values": PassCache(cache, start, plan.visible),
            "use_cache": True,
            "wanspec_plan": plan,
        }
        if first_wanted >= rows:
            self.model.base_model(**arguments)
            return None
        first = max(first_wanted, 0)
        keep = [*range(first, rows), *[first] * (-(rows - first) % ROW_MULTIPLE)]
        arguments["logits_to_keep"] = torch.tensor(keep, device=self._device)
        logits: Tensor = self.model(**arguments).logits[0, : rows - first]
        return logits

    def _hand_out(self, logits: Tensor) -> Rows:
        rows: Rows = logits[:, : self._vocab_size].float().cpu().numpy()
        lacking = self._vocab_size - rows.shape[1]
        if lacking > 0:
            rows = np.pad(rows, ((0, 0), (0, lacking)), constant_values=-np.inf)
        return rows

    def reference(self, tokens: Sequence[TokenId]) -> Rows:
        """What transformers itself computes for the rows after each of `tokens`, without our attention and cache."""
        ours = attention_name(exact=self.exact)
        self.model.set_attn_implementation("sdpa" if getattr(self.model, "_supports_sdpa", False) else "eager")
        try:
            with torch.inference_mode():
                logits: Tensor = self.model(torch.tensor([list(tokens)], device=self._device), use_cache=False).logits[
                    0
                ]
        finally:
            self.model.set_attn_implementation(ours)
        return self._hand_out(logits)
