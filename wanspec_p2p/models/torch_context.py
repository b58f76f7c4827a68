"""How far a model's attention is what our engine computes: each row over all before it, rotated by position alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wanspec_p2p.errors import ModelError

__all__ = ["context_length", "rotates_by_length"]


def context_length(config: Any) -> int:
    """The context of a model whose configuration, as transformers reads it, is `config`.

    A sliding window or a chunk bounds it: within it that attention and the full one are the same. So does the original
    context of `longrope`, which takes other factors in a pass that reaches beyond it, for every row of the pass: keys
    that earlier passes wrote would no longer fit, and a deep junk draft would change the rows beside it. `dynamic`
    scaling changes nothing up to `max_position_embeddings`.

    Raises:
        ModelError: it has no context.
    """
    bounds = [
        config.max_position_embeddings,
        getattr(config, "sliding_window", None),
        getattr(config, "attention_chunk_size", None),
        *(rope.get("original_max_position_embeddings") for rope in _ropes(config) if _kind(rope) == "longrope"),
    ]
    context = min((int(bound) for bound in bounds if bound), default=0)
    if context < 1:
        raise ModelError("config.json names no context: max_position_embeddings must be 1 or more")
    return context


def rotates_by_length(config: Any) -> bool:
    """Whether beyond `context_length` a key depends on the pass that wrote it."""
    return any(_kind(rope) in {"dynamic", "longrope"} for rope in _ropes(config))


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """RoPE's parameters: one mapping, or one for each type of layer, which some may lack."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    yield parameters
    yield from (value for value in parameters.values() if isinstance(value, Mapping))


def _kind(rope: Mapping[str, Any]) -> object:
    return rope.get("rope_type", rope.get("type"))
