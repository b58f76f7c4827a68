from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_models import write_tiny_model
from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.distill import torch_student
from wanspec_p2p.models.distill.torch_decoder import BatchDecoder, batched_attention_name
from wanspec_p2p.models.distill.torch_student import (
    LAYERS_FILE,
    build_student,
    load_layers,
    spread_layers,
    store_drafter,
    trained_parameters,
)
from wanspec_p2p.models.torch_loading import read_model
from wanspec_p2p.types import Device

IDS = torch.arange(40)[None] * 5 % 258


def student(directory: Path, *layers: int, width: int | None = None) -> Any:
    return build_student(directory, layers=layers, width=width, device=Device.CPU).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize(
    ("count", "total", "layers"),
    [(1, 3, (0,)), (2, 30, (0, 29)), (3, 30, (0, 1, 29)), (4, 30, (0, 1, 28, 29)), (3, 3, (0, 1, 2)), (1, 1, (0,))],
)
def test_the_first_and_the_last_layers(count: int, total: int, layers: tuple[int, ...]) -> None:
    assert spread_layers(count, total) == layers


def test_a_layer_keeps_what_the_target_says_of_it(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "smollm3", kind="SmolLM3", num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0])
    made = student(directory, 0, 3)
    assert [layer.self_attn.use_rope for layer in made.model.layers] == [1, 0]
    assert made.config.no_rope_layers == [1, 0]


@pytest.mark.parametrize("count", [0, -1, 31])
def test_layers_beyond_the_target_are_one_line(count: int) -> None:
    with pytest.raises(ConfigError, match=f"--layers {count}: the target has 30 layers, so a drafter takes 1 to 30"):
        spread_layers(count, 30)


def test_layers_are_copies_of_the_targets(target_directory: Path, plain: Any) -> None:
    made = student(target_directory, 0, 2)
    for own, theirs in ((0, 0), (1, 2)):
        expected = plain.model.layers[theirs].state_dict()
        found = made.model.layers[own].state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name
    assert torch.equal(made.model.embed_tokens.weight, plain.model.embed_tokens.weight)
    assert torch.equal(made.model.norm.weight, plain.model.norm.weight)
    assert made.config.num_hidden_layers == 2


def test_all_layers_are_the_target(target_directory: Path, plain: Any) -> None:
    torch.testing.assert_close(logits(student(target_directory, 0, 1, 2)), logits(plain))


def test_only_layers_and_the_last_norm_are_trained(target_directory: Path) -> None:
    names = set(trained_parameters(student(target_directory, 1)))
    assert "model.norm.weight" in names and "model.layers.0.mlp.up_proj.weight" in names
    assert {name for name in names if not name.startswith("model.layers.0.")} == {"model.norm.weight"}


@pytest.mark.parametrize("bias", [False, True])
def test_the_full_width_changes_nothing(tmp_path: Path, bias: bool) -> None:
    directory = write_tiny_model(tmp_path / "m", mlp_bias=bias)
    torch.testing.assert_close(logits(student(directory, 0, 1, width=64)), logits(student(directory, 0, 1)))


def test_narrowing_keeps_the_neurons_that_move_the_output_most(target_directory: Path, plain: Any) -> None:
    mlp = student(target_directory, 1, width=20).model.layers[0].mlp
    theirs = plain.model.layers[1].mlp
    gate, up, down = (part.weight.detach() for part in (theirs.gate_proj, theirs.up_proj, theirs.down_proj))
    strength = [float(gate[i].norm() * up[i].norm() * down[:, i].norm()) for i in range(64)]
    kept = sorted(sorted(range(64), key=lambda i: -strength[i])[:20])
    assert torch.equal(mlp.gate_proj.weight, theirs.gate_proj.weight[kept])
    assert torch.equal(mlp.up_proj.weight, theirs.up_proj.weight[kept])
    assert torch.equal(mlp.down_proj.weight, theirs.down_proj.weight[:, kept])


def test_neurons_that_do_nothing_can_go(target_directory: Path, tmp_path: Path, plain: Any) -> None:
    target = copy.deepcopy(plain)
    with torch.no_grad():
        for layer in target.model.layers:
            layer.mlp.down_proj.weight[:, ::2] = 0
    target.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(student(tmp_path, 0, 1, 2, width=32)), logits(target))


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral"])
def test_other_stacks_of_layers(tmp_path: Path, kind: str) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3, sliding_window=None,
    )  # fmt: skip
    target = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    target.save_pretrained(tmp_path / "target")
    torch.testing.assert_close(logits(student(tmp_path / "target", 0, 1, 2)), logits(target))
    store_drafter(student(tmp_path / "target", 0, 2, width=40), tmp_path / "target", tmp_path / "run" / "drafter")
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "drafter")
    assert len(found.model.layers) == 2 and found.config.intermediate_size == 40

    decoder_model = read_model(
        tmp_path / "target", dtype=torch.float32, device=Device.CPU, attention=batched_attention_name()
    )
    decoder = BatchDecoder(decoder_model, rows=2, context=16)
    decoder.prefill(1, IDS[0, :3].tolist())
    row = decoder.step([7, int(IDS[0, 3])])[1]
    torch.testing.assert_close(row, logits(target)[0, 3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [0, 65])
def test_a_width_that_will_not_do_is_one_line(target_directory: Path, width: int) -> None:
    with pytest.raises(
        ConfigError, match=f"--width {width}: the target's MLPs have 64 neurons, so a drafter takes 1 to"
    ):
        student(target_directory, 0, width=width)


@pytest.mark.parametrize(
    ("layers", "said"),
    [((3,), "names layer 3: the target has layers 0 to 2"), ((-1, 0), "names layer -1"), ((1, 0), "1,0: name each"),
     ((0, 0), "0,0: name each layer once, the lowest first")],
)  # fmt: skip
def test_layers_that_will_not_do_are_one_line(target_directory: Path, layers: tuple[int, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=f"--layers {said}"):
        student(target_directory, *layers)


def test_an_architecture_that_is_not_served_is_one_line(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="models of type gpt2 are not supported"):
        student(tmp_path, 0)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_stored_is_what_plain_transformers_loads(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = write_tiny_model(tmp_path / "target", tie_word_embeddings=tied)
    made = student(directory, 1, width=48)
    out = tmp_path / "run" / "drafter"
    store_drafter(made, directory, out)
    found = AutoModelForCausalLM.from_pretrained(out)
    assert found.dtype == torch.bfloat16
    for parameter in made.parameters():  # but not RoPE's frequencies, which `.to()` would round as well
        parameter.data = parameter.data.to(torch.bfloat16)
    assert torch.equal(logits(found), logits(made))
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    assert tokenizer("hi")["input_ids"] == AutoTokenizer.from_pretrained(directory)("hi")["input_ids"]
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) != tied


def test_the_layers_file_holds_what_was_trained_and_no_more(target_directory: Path, tmp_path: Path) -> None:
    made = student(target_directory, 0)
    store_drafter(made, target_directory, tmp_path / "drafter")
    layers = load_file(tmp_path / LAYERS_FILE)
    assert layers.keys() == trained_parameters(made).keys()
    whole = load_file(tmp_path / "drafter" / "model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in layers.items())
    assert json.loads((tmp_path / "drafter" / "config.json").read_text())["dtype"] == "bfloat16"


def test_storing_again_gives_the_same_bytes(target_directory: Path, tmp_path: Path) -> None:
    def stored(name: str) -> dict[str, bytes]:
        store_drafter(student(target_directory, 0), target_directory, tmp_path / name / "drafter")
        return {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*") if file.is_file()}

    assert stored("one") == stored("two")


def test_a_full_disk_is_one_line(target_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = student(target_directory, 0)
    written: list[str] = []

    def full(path: Path, content: bytes) -> None:
        written.append(path.name)
        if path.suffix == ".safetensors":
            raise ConfigError("full")

    monkeypatch.setattr(torch_student, "replace_file", full)
    with pytest.raises(ConfigError, match="full"):
        store_drafter(made, target_directory, tmp_path / "drafter")
    # Whatever is stored goes through the one function that knows of full disks; weights come last.
    assert list(tmp_path.iterdir()) == []
    assert written == ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", LAYERS_FILE]


def test_going_on_from_another_drafter(target_directory: Path, tmp_path: Path) -> None:
    trained = student(target_directory, 0, 2)
    with torch.no_grad():
        for parameter in trained_parameters(trained).values():
            parameter.add_(0.25)
    store_drafter(trained, target_directory, tmp_path / "drafter")
    again = student(target_directory, 0, 2)
    load_layers(again, tmp_path / "drafter")
    for name, parameter in trained_parameters(again).items():
        assert torch.equal(parameter, trained_parameters(trained)[name].to(torch.bfloat16).float()), name


@pytest.mark.parametrize(
    ("layers", "width", "said"),
    [
        ((0, 1, 2), None, r"model\.layers\.2\.\S+ is missing, not"),
        ((0,), None, r"it has more layers, model\.layers\.1\."),
        ((0, 1), 32, r"is 64×32, not 32×32"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(
    target_directory: Path, tmp_path: Path, layers: tuple[int, ...], width: int | None, said: str
) -> None:
    store_drafter(student(target_directory, 0, 1), target_directory, tmp_path / "drafter")
    with pytest.raises(ConfigError, match=f"--start .*drafter does not fit: .*{said}"):
        load_layers(student(target_directory, *layers, width=width), tmp_path / "drafter")


def test_a_start_that_is_damaged_is_one_line(target_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="--start .* cannot be read"):
        load_layers(student(target_directory, 0), tmp_path)
