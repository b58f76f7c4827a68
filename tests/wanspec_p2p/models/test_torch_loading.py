from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

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
