"""transformers' own `generate`, loaded without anything of ours: what benchmarks and tests compare the engine with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wanspec_p2p.models.torch_device import torch_dtype
from wanspec_p2p.models.torch_quiet import quiet_transformers
from wanspec_p2p.types import Dtype, TokenId

__all__ = ["Reference"]


class Reference:
    """Greedy decoding as transformers does it, on the CPU and on the calling thread."""

    def __init__(self, directory: Path, *, dtype: Dtype, threads: int) -> None:
        quiet_transformers()
        from transformers import AutoModelForCausalLM

        self._threads = threads
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch_dtype(dtype), use_safetensors=True)
        self._model = model.eval()

    def generate(self, prompt: Sequence[TokenId], tokens: int) -> list[TokenId]:
        """Exactly `tokens` ids after `prompt`; an end-of-sequence token does not end it."""
        torch.set_num_threads(self._threads)
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                eos_token_id=None,
                pad_token_id=0,
                repetition_penalty=1.0,
            )
        return [int(token) for token in out[0, len(prompt) :]]

    def margin(self, prefix: Sequence[TokenId]) -> float:
        """Gap of the two best logits after `prefix`: where two engines may differ, it is small."""
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            best = self._model(torch.tensor([list(prefix)])).logits[0, -1].float().topk(2).values
        return float(best[0] - best[1])
