"""Many sequences through one model at once, one token a step: how a target writes its own training text.

The exact engine runs a pass a session, because exactness needs its own attention; here nothing has to be exact, so the
rows of a step are different sequences, each at a position of its own, and the weights are read once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanspec_p2p.models.torch_device import Placement, torch_dtype
from wanspec_p2p.models.torch_loading import read_model

__all__ = ["BatchDecoder", "batched_attention_name", "read_batched"]

BATCHED = "wanspec_batched"
VISIBLE_MULTIPLE = 64
"""Steps look at a multiple of this many slots, so that shapes, and with them kernels, change rarely."""


class BatchDecoder:
    """Key-value caches of some sequences, a row each, of up to `context` tokens.

    Args:
        model: a causal language model of transformers whose attention is `batched_attention_name()`.

    Attributes:
        lengths: shape (rows,), the tokens of each row so far.
    """

    def __init__(self, model: Any, *, rows: int, context: int) -> None:
        config = model.config
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        shape = (int(config.num_hidden_layers), rows, kv_heads, context, head)
        self._model = model
        self._device: torch.device = model.device
        self._keys = torch.zeros(shape, dtype=model.dtype, device=self._device)
        self._values = torch.zeros_like(self._keys)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=self._device)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Append one token to every row.

        Args:
            tokens: shape (rows,).

        Returns:
            Logits after them, shape (rows, vocabulary), in the model's dtype.
        """
        positions = self.lengths
        longest = int(positions.max())
        visible = min(-(-(longest + 1) // VISIBLE_MULTIPLE) * VISIBLE_MULTIPLE, self._keys.shape[3])
        seen = torch.arange(visible, device=self._device)[None, :] <= positions[:, None]
        logits: Tensor = self._model(
            input_ids=torch.as_tensor(tokens, device=self._device)[:, None],
            position_ids=positions[:, None],
            past_key_values=_StepCache(self._keys, self._values, positions, longest, visible),
            use_cache=True,
            wanspec_seen=seen[:, None, None, :],
        ).logits[:, -1]
        self.lengths = positions + 1
        return logits

    @torch.inference_mode()
    def prefill(self, row: int, tokens: Sequence[int]) -> Tensor:
        """Begin another sequence in `row` with all of `tokens`, at least one, at once.

        Returns:
            Logits after the last, shape (vocabulary,).
        """
        logits: Tensor = self._model(
            input_ids=torch.tensor([list(tokens)], device=self._device),
            past_key_values=_RowCache(self._keys, self._values, row),
            use_cache=True,
            logits_to_keep=1,
            wanspec_seen=None,
        ).logits[0, -1]
        self.lengths[row] = len(tokens)
        return logits

    @torch.inference_mode()
    def restart(self, rows: Sequence[int]) -> None:
        """Forget what `rows` hold: their next tokens are the first of other sequences."""
        self.lengths[torch.tensor(rows, dtype=torch.int64, device=self._device)] = 0

    @torch.inference_mode()
    def compact(self, rows: Sequence[int]) -> None:
        """Keep only `rows`, in this order: when the work runs out, the last sequences do not pay for empty rows."""
        index = torch.tensor(rows, dtype=torch.int64, device=self._device)
        self._keys = self._keys.index_select(1, index)
        self._values = self._values.index_select(1, index)
        self.lengths = self.lengths[index]


class _StepCache:
    """The caches as transformers' attention modules see them during one step."""

    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, longest: int, visible: int) -> None:
        self._keys, self._values, self._positions, self._visible = keys, values, positions, visible
        self._longest = longest
        self._rows = torch.arange(keys.shape[1], device=keys.device)

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of shape (rows, key-value heads, 1, head); return what is visible of both."""
        self._keys[layer][self._rows, :, self._positions] = keys[:, :, 0]
        self._values[layer][self._rows, :, self._positions] = values[:, :, 0]
        return self._keys[layer][:, :, : self._visible], self._values[layer][:, :, : self._visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._longest


class _RowCache:
    """One row's caches, empty, during a prefill."""

    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor, row: int) -> None:
        self._keys, self._values, self._row = keys, values, row

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of shape (1, key-value heads, tokens, head), which are all there is to see."""
        self._keys[layer, self._row, :, : keys.shape[2]] = keys[0]
        self._values[layer, self._row, :, : keys.shape[2]] = values[0]
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def read_batched(directory: Path, placement: Placement) -> Any:
    """A model as `BatchDecoder` wants it.

    Raises:
        ModelError: the directory cannot be loaded.
    """
    return read_model(
        directory,
        dtype=torch_dtype(placement.dtype),
        device=placement.device,
        attention=batched_attention_name(),
    )


def batched_attention_name() -> str:
    """Register our attention with transformers and return the name `from_pretrained` knows it by."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(BATCHED, _batched_attention)
    return BATCHED


def _batched_attention(
    module: torch.nn.Module,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    wanspec_seen: Tensor | None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' attention interface: one query a row, or, without `wanspec_seen`, a prompt from its beginning.

    Query heads that share a key-value head take the place of positions, so that nothing is repeated in memory.
    """
    attend = torch.nn.functional.scaled_dot_product_attention
    rows, heads, tokens, head = query.shape
    if wanspec_seen is None:
        out = attend(query, keys, values, is_causal=True, scale=scaling, enable_gqa=heads != keys.shape[1])
        return out.transpose(1, 2), None
    grouped = query.view(rows, keys.shape[1], -1, head)
    out = attend(grouped, keys, values, attn_mask=wanspec_seen, scale=scaling)
    return out.reshape(rows, 1, heads, head), None
