"""A transformers model from a directory that was checked: the one place where weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.directories import eos_named
from wanspec_p2p.models.torch_quiet import quiet_transformers
from wanspec_p2p.types import Device, TokenId

__all__ = ["check_attention", "eos_tokens", "read_model"]


def read_model(directory: Path, *, dtype: torch.dtype, device: Device, attention: str) -> Any:
    """from_pretrained with the final number format: `.to()` afterwards would round RoPE's frequencies as well.

    Args:
        attention: a name that transformers knows: one of its own, or one that was registered with it.

    Raises:
        ModelError: the directory cannot be loaded, or lacks some of the weights.
    """
    quiet_transformers()
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file can make transformers raise anything
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{directory} cannot be loaded: {line}") from error
    model, found = loaded
    _check_whole(directory, found)
    return model.eval().to(device.value)


def _check_whole(directory: Path, found: dict[str, Any]) -> None:
    """transformers fills what it misses with random numbers, which are others at every start."""
    missing, odd = sorted(found["missing_keys"]), sorted(found["mismatched_keys"])
    if not missing and not odd:
        return
    name = missing[0] if missing else odd[0][0]
    what = "lack" if missing else "have another shape for"
    more = f" and {len(missing) + len(odd) - 1} more" if len(missing) + len(odd) > 1 else ""
    raise ModelError(
        f"{directory} cannot be loaded: its weights {what} {name}{more}: fetch it again, or mend its config.json"
    )


LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Alike within the context that `context_length` gives a model."""


def check_attention(model: Any) -> None:
    """Raises:
    ModelError: an architecture whose attention cannot be replaced by one of ours.
    """
    soft = getattr(model.config, "attn_logit_softcapping", None)
    if soft or not getattr(model, "_supports_attention_backend", False):
        raise ModelError(
            f"models of type {model.config.model_type} are not supported: their attention cannot be replaced"
        )
    odd = sorted(set(getattr(model.config, "layer_types", None) or ()) - LAYERS)
    if odd:
        raise ModelError(f"models of type {model.config.model_type} are not supported: they have layers of {odd[0]}")


def eos_tokens(model: Any) -> tuple[TokenId, ...]:
    """Ids that end an answer, as the model's configuration names them.

    Raises:
        ModelError: what it names is no id.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    if named is None:
        named = getattr(model.config, "eos_token_id", None)
    return eos_named(named, "generation_config.json")
