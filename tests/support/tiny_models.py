"""A Llama or its like of two layers, with random weights and a byte-level tokenizer, written as transformers would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["CHAT_TEMPLATE", "LENGTH_ROPES", "SPECIAL_TOKENS", "length_rope", "write_tiny_model"]

SPECIAL_TOKENS = ("<|end|>", "<|turn|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
LENGTH_ROPES = ("dynamic", "longrope")


def length_rope(kind: str, context: int) -> dict[str, Any]:
    """Settings of a tiny model with one of LENGTH_ROPES, which leaves its original frequencies beyond `context`."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "dynamic":
        return {"max_position_embeddings": context, "rope_parameters": rope}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4, "original_max_position_embeddings": context}
    return {"max_position_embeddings": 4 * context, "rope_parameters": rope}


def write_tiny_model(
    directory: Path, *, kind: str = "Llama", seed: int = 0, vocab_size: int = 272, **config: Any
) -> Path:
    """Hidden 32, four heads over two key-value heads; ids 0..257 belong to the tokenizer, the others are padding.

    Args:
        kind: as transformers names the architecture's classes: Llama, Mistral, Qwen2, Qwen3 and so on.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": 257,
        "eos_token_id": 256,
        "pad_token_id": 256,
        **config,
    }
    architecture = getattr(transformers, f"{kind}ForCausalLM")
    architecture(architecture.config_class(**settings)).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|turn|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**names, "chat_template": CHAT_TEMPLATE}))
