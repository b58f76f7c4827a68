from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.torch_loading import check_attention, eos_tokens, read_model
from wanspec_p2p.types import Device


def test_a_model_comes_in_the_number_format_that_is_asked_for(tiny_directory: Path) -> None:
    model = read_model(tiny_directory, dtype=torch.bfloat16, device=Device.CPU, attention="sdpa")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32  # `.to()` would have rounded it
    assert not model.training


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    for content in ("{}", '{"model_type": "nonsense"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match="cannot be loaded: ") as caught:
            read_model(tmp_path, dtype=torch.float32, device=Device.CPU, attention="sdpa")
        assert "\n" not in str(caught.value)


def load(directory: Path) -> Any:
    return read_model(directory, dtype=torch.float32, device=Device.CPU, attention="sdpa")


def test_weights_that_are_missing_are_never_made_up(tiny_directory: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({n: tensor for n, tensor in tensors.items() if n != name}, directory / "model.safetensors")
    with pytest.raises(ModelError, match=f"cannot be loaded: its weights lack {name}: fetch it again"):
        load(directory)
    save_file({**tensors, name: torch.zeros(3, 3)}, directory / "model.safetensors")
    with pytest.raises(ModelError, match=f"cannot be loaded: its weights have another shape for {name}: fetch"):
        load(directory)


def test_more_layers_than_there_are_weights_for_are_refused(tiny_directory: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"its weights lack model\.layers\.2\..* and 8 more"):
        load(directory)


@pytest.mark.parametrize("content", [b"", b"half", (1 << 60).to_bytes(8, "little") + b"{}"])
def test_a_damaged_file_of_weights_is_one_line(tiny_directory: Path, tmp_path: Path, content: bytes) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded: Error while deserializing header"):
        load(directory)


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"rms_norm_eps": "x"}, {"model_type": []}])
def test_a_configuration_that_cannot_be_is_one_line(
    tiny_directory: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match="cannot be loaded: "):
        load(directory)


def test_memory_that_runs_out_is_not_the_models_fault(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        load(tiny_directory)


def some(generation: object, config: object) -> Any:
    return SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation), config=SimpleNamespace(eos_token_id=config)
    )


@pytest.mark.parametrize(
    ("generation", "config", "tokens"),
    [(None, None, ()), (None, 2, (2,)), (3, 2, (3,)), ([3, 4], 2, (3, 4)), (0, 2, (0,)), (None, [5], (5,))],
)
def test_end_tokens_are_those_of_the_generation_settings_first(
    generation: object, config: object, tokens: tuple[int, ...]
) -> None:
    assert eos_tokens(some(generation, config)) == tokens


@pytest.mark.parametrize("odd", ["x", 1.5, [3, None]])
def test_end_tokens_that_are_none_are_one_line(odd: object) -> None:
    with pytest.raises(ModelError, match="eos_token_id is .*, which is no token id"):
        eos_tokens(some(odd, 2))


@pytest.mark.parametrize("model", [{"_supports_attention_backend": True, "soft": 30.0}, {"soft": None}])
def test_attention_that_cannot_be_replaced_is_refused(model: dict[str, Any]) -> None:
    config = SimpleNamespace(model_type="odd", attn_logit_softcapping=model.pop("soft"))
    with pytest.raises(ModelError, match="models of type odd are not supported: their attention cannot be replaced"):
        check_attention(SimpleNamespace(config=config, **model))


def layered(*types: str) -> Any:
    config = SimpleNamespace(model_type="odd", layer_types=list(types))
    return SimpleNamespace(config=config, _supports_attention_backend=True)


def test_layers_that_attend_otherwise_are_refused_by_name() -> None:
    check_attention(layered("full_attention", "sliding_attention", "chunked_attention"))
    with pytest.raises(ModelError, match="models of type odd are not supported: they have layers of linear_attention"):
        check_attention(layered("full_attention", "linear_attention"))
