from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models import torch_convert
from wanspec_p2p.models.torch_convert import assemble_drafter, convert_gguf

HIDDEN, FEED, VOCAB = 32, 64, 260


def write_gguf(path: Path, *, architecture: str = "llama", without: str = "") -> dict[str, np.ndarray]:
    """A Llama of one layer with four heads over two, as llama.cpp stores it; returns its tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|end|>", "t", "1", *(f"t{i}" for i in range(VOCAB - 3))])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (FEED, HIDDEN),
        "blk.0.ffn_up.weight": (FEED, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, FEED),
    }
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if name != without:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_becomes_float32_safetensors_with_config_and_tokenizer(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf")
    out = tmp_path / "out"
    out.mkdir()
    seen: list[tuple[str, int, int]] = []
    convert_gguf(tmp_path / "tiny.gguf", out, lambda *args: seen.append(args))
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert "lm_head.weight" not in stored and len(stored) == len(tensors)
    assert np.array_equal(stored["model.embed_tokens.weight"].numpy(), tensors["token_embd.weight"])
    assert np.array_equal(stored["model.layers.0.mlp.up_proj.weight"].numpy(), tensors["blk.0.ffn_up.weight"])
    # llama.cpp interleaves the two halves of each rotary head; transformers keeps them apart.
    query = tensors["blk.0.attn_q.weight"].reshape(4, 4, 2, HIDDEN).swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
    assert np.array_equal(stored["model.layers.0.self_attn.q_proj.weight"].numpy(), query)
    config = json.loads((out / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert (out / "tokenizer.json").is_file()
    assert seen[-1] == ("convert", len(tensors) + 1, len(tensors) + 1)


def test_a_gguf_with_a_tensor_missing_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", without="blk.0.ffn_up.weight")
    with pytest.raises(ModelError, match="lacks model.layers.0.mlp.up_proj.weight"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, lambda *args: None)


def test_a_drafter_takes_the_targets_embedding_and_tokenizer(tiny_directory: Path, tmp_path: Path) -> None:
    layers, out = tmp_path / "layers", tmp_path / "out"
    layers.mkdir()
    out.mkdir()
    save_file({"model.norm.weight": torch.ones(32, dtype=torch.bfloat16)}, layers / "layers.safetensors")
    (layers / "config.json").write_text("{}")
    assemble_drafter(layers, tiny_directory, out, lambda *args: None)
    stored = load_file(out / "model.safetensors")
    embedding = load_file(tiny_directory / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(stored["model.embed_tokens.weight"], embedding.to(torch.bfloat16))
    assert sorted(stored) == ["model.embed_tokens.weight", "model.norm.weight"]
    assert (out / "tokenizer.json").read_bytes() == (tiny_directory / "tokenizer.json").read_bytes()
    assert (out / "config.json").read_text() == "{}"


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(torch_convert, "save_file", full)
    write_gguf(tmp_path / "m.gguf")
    with pytest.raises(OSError, match="No space left on device"):
        convert_gguf(tmp_path / "m.gguf", tmp_path, lambda label, done, total: None)
