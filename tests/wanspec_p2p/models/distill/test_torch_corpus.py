from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from tests.support.tiny_models import write_tiny_model
from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.distill import torch_corpus
from wanspec_p2p.models.distill.corpus import Corpus, Recipe
from wanspec_p2p.models.distill.torch_corpus import (
    ROWS,
    Source,
    cache_bytes,
    context_of,
    fill_corpus,
    find_source,
    recipe_for,
)
from wanspec_p2p.models.torch_device import choose_device
from wanspec_p2p.types import Device, Dtype

PLACEMENT = choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1)
SMOLLM2 = {
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576,
    "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture
def source(target_directory: Path, tmp_path: Path) -> Source:
    return find_source(str(target_directory), Catalog(tmp_path / "cache"))


@pytest.fixture
def recipe(source: Source) -> Recipe:
    whole = recipe_for(source, seed=3, device=Device.CPU)
    return msgspec.structs.replace(whole, rows=4, context=40)


def fill(corpus: Corpus, source: Source, tokens: int, prompts: tuple[str, ...] = ()) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    fill_corpus(
        corpus,
        source,
        tokens=tokens,
        placement=PLACEMENT,
        prompts=prompts,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    return told


def contents(corpus: Corpus) -> list[tuple[str, dict[str, bytes]]]:
    """Of every shard. The order of a file's metadata is not determined, so files may differ."""
    return [
        (shard.name, {name: array.tobytes() for name, array in load_file(shard).items()}) for shard in corpus.shards
    ]


def test_a_source_is_named_without_its_folders(source: Source, target_directory: Path) -> None:
    assert (source.name, source.directory) == ("tiny-target", target_directory)


def test_a_corpus_is_filled_and_filled_up(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "c", recipe)
    told = fill(corpus, source, 100)
    assert corpus.generated() >= 100 and len(corpus.shards) >= 1
    assert told[0] == ("tiny-target writes", 0, 100) and told[-1] == ("tiny-target writes", 100, 100)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    first = contents(corpus)
    assert fill(corpus, source, 100) == [("tiny-target writes", 100, 100)]
    fill(corpus, source, 2 * corpus.generated())
    assert len(corpus.shards) > len(first)
    assert contents(corpus)[: len(first)] == first


def test_the_same_recipe_writes_the_same(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    one, two = Corpus(tmp_path / "one", recipe), Corpus(tmp_path / "two", recipe)
    fill(one, source, 100)
    fill(two, source, 100)
    assert len(one.shards) > 1
    assert contents(one) == contents(two)
    texts = [dialogue.ids.tolist() for dialogue in one.dialogues()]
    assert len({tuple(text) for text in texts}) == len(texts)  # no shard repeats another


def test_a_lost_shard_is_written_again(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "c", recipe)
    fill(corpus, source, 100)
    before = contents(corpus)
    corpus.shards[-1].unlink()
    fill(corpus, source, 100)
    assert contents(corpus) == before


def test_prompts_that_are_brought_are_answered(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "c", recipe)
    fill(corpus, source, 100, prompts=("Why?",))
    assert any(dialogue.kind == "brought" for dialogue in corpus.dialogues())


def test_a_target_that_cannot_be_distilled_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "silent")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    source = find_source(str(directory), Catalog(tmp_path / "cache"))
    corpus = Corpus(tmp_path / "c", recipe_for(source, seed=0, device=Device.CPU))
    with pytest.raises(ModelError, match="silent cannot be distilled: its chat template is missing"):
        fill(corpus, source, 100)
    assert not corpus.directory.exists()


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "small", vocab_size=257, bos_token_id=1)
    source = find_source(str(directory), Catalog(tmp_path / "cache"))
    corpus = Corpus(tmp_path / "c", recipe_for(source, seed=0, device=Device.CPU))
    with pytest.raises(
        ModelError, match="small cannot be distilled: its tokenizer makes id 257, its vocabulary has 257"
    ):
        fill(corpus, source, 100)


def test_a_template_that_leaves_no_room_is_refused(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    # Nothing would ever be written, and the corpus never be full.
    corpus = Corpus(tmp_path / "c", msgspec.structs.replace(recipe, context=8))
    with pytest.raises(ModelError, match=r"chat template alone takes \d+ of the 8 tokens that a dialogue has"):
        fill(corpus, source, 100)
    assert not corpus.directory.exists()


def test_a_target_whose_turns_never_end_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "endless", eos_token_id=5)
    endless = find_source(str(directory), Catalog(tmp_path / "cache"))
    recipe = msgspec.structs.replace(recipe_for(endless, seed=3, device=Device.CPU), rows=4, context=40)
    with pytest.raises(ModelError, match=r"endless cannot be distilled: no turn .* one of its end tokens \[5\]: name"):
        fill(Corpus(tmp_path / "corpus", recipe), endless, 100)
    assert not list((tmp_path / "corpus").glob("shard-*"))


def test_prompts_that_leave_no_room_are_refused(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prompts: every prompt is longer than 21 tokens"):
        fill(Corpus(tmp_path / "c", recipe), source, 100, prompts=("x" * 22,))


def test_a_recipe_tells_prompts_apart(source: Source) -> None:
    digests = [
        recipe_for(source, seed=0, device=Device.CPU, prompts=prompts).prompts
        for prompts in ((), ("a", "b"), ("ab",), ("b", "a"))
    ]
    assert digests[0] == "" and len(set(digests)) == 4


def made(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], *, gigabytes: float) -> Recipe:
    monkeypatch.setattr(torch_corpus, "read_config", lambda directory: config)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=int(gigabytes * 1e9)))
    return recipe_for(Source("m", Path(), "d", "t"), seed=0, device=Device.CPU)


def test_rows_and_context_follow_the_target_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(monkeypatch, SMOLLM2, gigabytes=16)
    assert (whole.rows, whole.context) == (ROWS[Device.CPU], 704)
    # A row of SmolLM2 takes 32 MB in float32; half of the memory is for rows.
    assert made(monkeypatch, SMOLLM2, gigabytes=4).rows == 32
    assert made(monkeypatch, SMOLLM2, gigabytes=0.01).rows == 1
    assert made(monkeypatch, {**SMOLLM2, "max_position_embeddings": 512}, gigabytes=16).context == 512
    assert made(monkeypatch, {**SMOLLM2, "sliding_window": 128}, gigabytes=16).context == 128


def test_what_caches_take() -> None:
    assert cache_bytes(SMOLLM2, rows=2, context=10) == 2 * 10 * 30 * 3 * 64 * 2 * 4
    assert context_of({}) == 704
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"):
        with pytest.raises(ModelError, match=f"{name} is nan, which is no size"):
            cache_bytes({"hidden_size": 576} | {name: float("nan")}, rows=2, context=10)
    with pytest.raises(ModelError, match="max_position_embeddings is -5"):
        context_of({"max_position_embeddings": -5})


def test_shapes_are_kept_whatever_the_rows(source: Source, recipe: Recipe, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "c", recipe)
    fill(corpus, source, 60)
    for dialogue in corpus.dialogues():
        assert len(dialogue.ids) <= recipe.context
        assert dialogue.label_ids.shape == dialogue.label_logprobs.shape == (len(dialogue.ids), 32)
        assert np.isfinite(dialogue.label_logprobs[:-1].astype(np.float32)).all()
