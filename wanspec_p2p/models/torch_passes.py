"""From segments to forward passes of one transformers model: synchronous, and without bookkeeping of names."""

from __future__ import annotations

import itertools
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
    Plan,
    Tail,
    exact_attention,
    fast_attention,
    make_plan,
)
from wanspec_p2p.models.torch_cache import CacheShape, PassCache, SessionCache
from wanspec_p2p.models.torch_joined import JoinedCache, by_segment
from wanspec_p2p.models.torch_loading import check_attention
from wanspec_p2p.models.torch_parts import PASS_ROWS, Part, Work, parts_of, together
from wanspec_p2p.types import TokenId

__all__ = ["Passes", "attention_name"]


def attention_name(*, exact: bool) -> str:
    """Register our attention with transformers and return the name `from_pretrained` knows it by."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name, function = (EXACT, exact_attention) if exact else (FAST, fast_attention)
    ALL_ATTENTION_FUNCTIONS.register(name, by_segment(function))
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
        self.joins = False  # rows of several segments in one pass: only where that changes no bit of them
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
        """`run_batch` for one session."""
        [rows] = self.run_batch([Work(cache, tokens, tree, parents)])
        return rows

    def run_batch(self, batch: Sequence[Work]) -> list[Rows]:
        """Return for each the rows that `Segment` promises. Their last parts share passes where `joins` allows it.

        No cache may be in it twice. After an exception all its caches are worthless.
        """
        wanted: list[list[Tensor]] = []
        last: list[Part] = []
        for work in batch:
            *blocks, end = parts_of(work)
            wanted.append([rows for block in blocks for rows in self._pass([block])])
            last.append(end)
        groups = together(last, PASS_ROWS if self.joins else 0)
        ends = [rows for parts in groups for rows in self._pass(parts)]
        for work in batch:
            work.cache.commit(len(work.tokens))
        return [self._hand_out([*rows, end]) for rows, end in zip(wanted, ends, strict=True)]

    @torch.inference_mode()
    def _pass(self, parts: Sequence[Part]) -> list[Tensor]:
        """One forward pass over the rows of all parts.

        Returns:
            Logits of each part's wanted rows; nothing where no row of the pass is wanted.
        """
        plans = [self._plan(part) for part in parts]
        for part, plan in zip(parts, plans, strict=True):
            part.cache.reserve(plan.visible)
        ids = [token for part in parts for token in part.ids]
        padding = [0] * (-len(ids) % ROW_MULTIPLE)
        positions = np.concatenate([*(plan.positions[: plan.real] for plan in plans), np.array(padding, np.int64)])
        caches = [PassCache(part.cache, part.start, plan.visible) for part, plan in zip(parts, plans, strict=True)]
        arguments = {
            "input_ids": torch.tensor([ids + padding], device=self._device),
            "position_ids": torch.from_numpy(positions).to(self._device).unsqueeze(0),
            "past_key_values": JoinedCache(caches, [plan.real for plan in plans]),
            "use_cache": True,
            "wanspec_plans": plans,
        }
        wanted: list[int] = []
        for part, end in zip(parts, itertools.accumulate(plan.real for plan in plans), strict=True):
            wanted += range(end - part.wanted, end)
        if not wanted:
            self.model.base_model(**arguments)
            return []
        keep = wanted + wanted[:1] * (-len(wanted) % ROW_MULTIPLE)
        arguments["logits_to_keep"] = torch.tensor(keep, device=self._device)
        logits: Tensor = self.model(**arguments).logits[0, : len(wanted)]
        return list(torch.split(logits, [part.wanted for part in parts]))

    def _plan(self, part: Part) -> Plan:
        return make_plan(
            part.start - part.held,
            part.tokens,
            part.parents,
            groups=self._groups,
            exact=self.exact,
            tail=self.tail,
            device=self._device,
            held=part.held,
        )

    def _hand_out(self, logits: Sequence[Tensor]) -> Rows:
        joined = torch.cat(list(logits)) if len(logits) > 1 else logits[0]
        rows: Rows = joined[:, : self._vocab_size].float().cpu().numpy()
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
        return self._hand_out([logits])
