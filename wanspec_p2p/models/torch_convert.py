"""Turn a published GGUF file, or our drafter's layers, into a directory any transformers program loads.

transformers' own GGUF loader wants a further package (accelerate) and shows a bar of its own; here its tensor rules
are used directly. What is written are the float32 numbers the GGUF file encodes (docs/decisions/0002-model-cache.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.pull import Progress

__all__ = ["assemble_drafter", "convert_gguf", "shared_files"]

SHARED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
)


def convert_gguf(path: Path, out: Path, progress: Progress) -> None:
    """Write model.safetensors (float32, tied head left out), config and tokenizer of a Llama in `path` to `out`.

    Raises:
        ModelError: transformers or gguf is missing, or the file is not a Llama.
    """
    try:
        from gguf import GGUFReader, dequantize
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
        from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor, get_gguf_hf_weights_map
    except ImportError as error:
        raise ModelError(f"converting a model needs the extra [target] or [node]: {error}") from error

    label = "convert"
    progress(label, 0, 0)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if not isinstance(config, LlamaConfig):
        raise ModelError(f"{path.name} is a {config.model_type}, not a Llama")
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.float32
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    make_processor: Any = LlamaTensorProcessor  # transformers ships it without annotations
    processor = make_processor(config=config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    reader = GGUFReader(path)
    tensors: dict[str, torch.Tensor] = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        weights = processor.process(weights=dequantize(tensor.data, tensor.tensor_type), name=tensor.name).weights
        if tensor.name in names:
            tensors[names[tensor.name]] = torch.from_numpy(weights.copy())
        progress(label, done, len(reader.tensors) + 1)
    missing = set(model.state_dict()) - set(tensors) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if missing:
        raise ModelError(f"{path.name} lacks {', '.join(sorted(missing)[:3])}")
    _save(tensors, out / "model.safetensors")
    config.save_pretrained(out)
    GenerationConfig.from_model_config(config).save_pretrained(out)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(out)
    progress(label, len(reader.tensors) + 1, len(reader.tensors) + 1)


def assemble_drafter(layers: Path, target: Path, out: Path, progress: Progress) -> None:
    """Write to `out` the drafter whose `layers` folder holds all but the embedding, which it shares with `target`."""
    progress("assemble", 0, 1)
    with safe_open(target / "model.safetensors", framework="pt") as file:
        embedding = file.get_tensor("model.embed_tokens.weight")
    with safe_open(layers / "layers.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    tensors["model.embed_tokens.weight"] = embedding.to(tensors["model.norm.weight"].dtype)
    _save(tensors, out / "model.safetensors")
    shutil.copyfile(layers / "config.json", out / "config.json")
    for file in shared_files(target):
        shutil.copyfile(file, out / file.name)
    progress("assemble", 1, 1)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raises:
    OSError: the disk is full; safetensors has an error of its own for it.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def shared_files(target: Path) -> list[Path]:
    """What a drafter has from its target besides weights: tokenizer, chat template and generation settings."""
    return [target / name for name in SHARED_FILES if (target / name).is_file()]
