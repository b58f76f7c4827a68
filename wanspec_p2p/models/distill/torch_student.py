"""A drafter begins as some of its target's layers: how they are chosen, narrowed, and stored."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.models.torch_convert import shared_files
from wanspec_p2p.models.torch_loading import check_attention, read_model
from wanspec_p2p.types import Device

__all__ = ["LAYERS_FILE", "build_student", "load_layers", "spread_layers", "store_drafter", "trained_parameters"]

LAYERS_FILE = "layers.safetensors"
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Settings with an entry for each layer."""
FROZEN = ("embed_tokens.weight", "lm_head.weight")


def spread_layers(count: int, total: int) -> tuple[int, ...]:
    """The first and the last layers of a target: those in the middle are the ones it misses least.

    Raises:
        ConfigError: none, or more than the target has.
    """
    if not 1 <= count <= total:
        raise ConfigError(f"--layers {count}: the target has {total} layers, so a drafter takes 1 to {total}")
    first = (count + 1) // 2
    return (*range(first), *range(total - (count - first), total))


def build_student(directory: Path, *, layers: Sequence[int], width: int | None, device: Device) -> Any:
    """A model of the target's kind with only `layers` of its layers, in float32. Only they and the last norm train.

    Args:
        directory: the target's.
        width: neurons kept in each MLP, the ones with the largest weights; None keeps all.

    Raises:
        ModelError: an architecture that is not a stack of alike layers, or that the engine does not serve, or a
            directory that cannot be loaded.
        ConfigError: layers that the target does not have or that do not ascend, or a width beyond its own.
    """
    target = read_model(directory, dtype=torch.float32, device=Device.CPU, attention="sdpa")
    check_attention(target)
    body = target.base_model
    if not isinstance(getattr(body, "layers", None), torch.nn.ModuleList) or not hasattr(body, "norm"):
        raise ModelError(f"models of type {target.config.model_type} are not supported: they are no stack of layers")
    total = len(body.layers)
    for layer in layers:
        if not 0 <= layer < total:
            raise ConfigError(f"--layers names layer {layer}: the target has layers 0 to {total - 1}")
    if list(layers) != sorted(set(layers)):
        raise ConfigError(f"--layers {','.join(map(str, layers))}: name each layer once, the lowest first")
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = len(layers)
    for name in PER_LAYER:
        if len(entries := getattr(config, name, None) or ()) == total:
            setattr(config, name, [entries[layer] for layer in layers])
    body.layers = torch.nn.ModuleList(body.layers[layer] for layer in layers)
    if width is not None:
        for layer in body.layers:
            _narrow(layer, width, config)
        config.intermediate_size = width
    student = type(target)(config)
    try:
        student.load_state_dict(target.state_dict())
    except RuntimeError as error:
        raise ModelError(f"models of type {config.model_type} are not supported: their layers differ") from error
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(not name.endswith(FROZEN))
    return student.to(device.value)


def _narrow(layer: Any, width: int, config: Any) -> None:
    """Keep the neurons of a gated MLP that can move its output most, by the product of their three weights' norms."""
    mlp = layer.mlp
    if not all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")):
        raise ModelError(f"models of type {config.model_type} cannot be narrowed: leave --width out")
    held = int(mlp.gate_proj.weight.shape[0])
    if not 1 <= width <= held:
        raise ConfigError(f"--width {width}: the target's MLPs have {held} neurons, so a drafter takes 1 to {held}")
    with torch.no_grad():
        gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        weight = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
        kept = weight.topk(width).indices.sort().values
        mlp.gate_proj.weight = torch.nn.Parameter(gate[kept].clone())
        mlp.up_proj.weight = torch.nn.Parameter(up[kept].clone())
        mlp.down_proj.weight = torch.nn.Parameter(down[:, kept].clone())
        for part in (mlp.gate_proj, mlp.up_proj):
            if part.bias is not None:
                part.bias = torch.nn.Parameter(part.bias[kept].clone())


def trained_parameters(student: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


def load_layers(student: Any, drafter: Path) -> None:
    """Go on from the layers of another drafter for the same target.

    Raises:
        ConfigError: it has another shape, or is damaged.
    """
    found: dict[str, Tensor] = {}
    try:
        for file in sorted(drafter.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"--start {drafter} cannot be read: {error}") from error
    trained = trained_parameters(student)
    for name, parameter in trained.items():
        tensor = found.get(name)
        if tensor is None or tensor.shape != parameter.shape:
            raise ConfigError(f"--start {drafter} does not fit: {name} is {_shape(tensor)}, not {_shape(parameter)}")
        with torch.no_grad():
            parameter.copy_(tensor)
    extra = [name for name in found if ".layers." in name and name not in trained]
    if extra:
        raise ConfigError(f"--start {drafter} does not fit: it has more layers, {extra[0]} for one")


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "×".join(map(str, tensor.shape))


def store_drafter(student: Any, target: Path, out: Path) -> None:
    """Write a directory that plain transformers loads, and beside it the trained layers alone, all in bfloat16.

    Args:
        target: its tokenizer and generation settings are the drafter's.
        out: the weights come last, so that a directory with weights is whole; LAYERS_FILE goes to its parent.

    Raises:
        ConfigError: the disk is full, or not to be written to.
    """
    config = json.loads(student.config.to_json_string())
    config["dtype"] = "bfloat16"
    config.pop("_name_or_path", None)  # a folder of this machine
    replace_file(out / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    for file in shared_files(target):
        replace_file(out / file.name, file.read_bytes())
    trained = trained_parameters(student)
    tied = bool(getattr(student.config, "tie_word_embeddings", False))
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in student.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    layers = {name: tensor for name, tensor in tensors.items() if name in trained}
    replace_file(out.parent / LAYERS_FILE, save(layers, {"format": "pt"}))
    replace_file(out / "model.safetensors", save(tensors, {"format": "pt"}))
