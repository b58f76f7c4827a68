from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.wanspec_p2p.models.distill.conftest import dialogue
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.corpus import Corpus, Dialogue, Origin, Recipe

RECIPE = Recipe(target="t", tokenizer="k", seed=1, rows=2, context=8)
FIRST = [dialogue(5), dialogue(1, kind="code", first=9)]
SECOND = [dialogue(7, kind="passages", first=70_000)]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path / "corpus", RECIPE)
    corpus.begin()
    corpus.append(FIRST)
    corpus.append(SECOND)
    return corpus


def same(one: Dialogue, other: Dialogue) -> bool:
    arrays = ("ids", "origins", "label_ids", "label_logprobs")
    return (one.kind, one.temperature) == (other.kind, other.temperature) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def test_round_trip(corpus: Corpus) -> None:
    found = list(Corpus(corpus.directory, RECIPE).dialogues())
    assert len(found) == len(corpus) == 3
    assert all(same(one, other) for one, other in zip(found, FIRST + SECOND, strict=True))
    assert [found[0].label_ids.dtype, found[2].label_ids.dtype] == [np.uint16, np.int32]


def test_generated_counts_what_the_target_wrote(corpus: Corpus) -> None:
    own = [np.count_nonzero(one.origins != Origin.GIVEN) for one in FIRST + SECOND]
    assert [one.generated for one in FIRST + SECOND] == own == [3, 0, 4]
    assert corpus.generated() == 7


def test_the_first_shards_that_suffice(corpus: Corpus) -> None:
    assert [len(list(corpus.dialogues(tokens=tokens))) for tokens in (1, 3, 4, 7, 1000)] == [2, 2, 3, 3, 3]


def test_nothing_is_touched_before_it_begins(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "corpus", RECIPE)
    assert (len(corpus), corpus.generated(), list(corpus.dialogues())) == (0, 0, [])
    assert not corpus.directory.exists()


def test_a_killed_writer_leaves_whole_shards(corpus: Corpus) -> None:
    (corpus.directory / ".shard-00002.safetensors.partial").write_bytes(b"half a sh")
    again = Corpus(corpus.directory, RECIPE)
    assert len(again) == 3
    again.append(FIRST)
    assert len(list(again.dialogues())) == 5
    assert [shard.name for shard in again.shards] == [f"shard-0000{i}.safetensors" for i in range(3)]


def test_a_run_killed_before_its_manifest_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / ".corpus.json.partial").write_bytes(b"{")
    Corpus(tmp_path / "corpus", RECIPE).begin()
    assert msgspec.json.decode((tmp_path / "corpus" / "corpus.json").read_bytes(), type=Recipe) == RECIPE


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 2}, "another --seed: repeat"),
        ({"target": "u", "tokenizer": "l"}, "another TARGET, tokenizer of TARGET: repeat"),
        ({"rows": 3, "prompts": "p"}, "another --device, or machine, --prompts: repeat"),
    ],
)
def test_another_recipe_is_refused(corpus: Corpus, changed: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Corpus(corpus.directory, msgspec.structs.replace(RECIPE, **changed))


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(ConfigError, match="holds something else: name an empty --out"):
        Corpus(tmp_path, RECIPE)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("…")
    with pytest.raises(ConfigError, match="corpus holds something else"):
        Corpus(tmp_path / "corpus", RECIPE)


@pytest.mark.parametrize("content", ["{", "[]", '{"target": "t"}', '{"tokens": 1}'])
def test_a_damaged_manifest_is_refused(corpus: Corpus, content: str) -> None:
    (corpus.directory / "corpus.json").write_text(content)
    with pytest.raises(ConfigError, match=r"corpus\.json is not ours or damaged"):
        Corpus(corpus.directory, RECIPE)


@pytest.mark.parametrize("cut", [0, 7, 300, -1])
def test_a_damaged_shard_is_named(corpus: Corpus, cut: int) -> None:
    shard = corpus.shards[1]
    shard.write_bytes(shard.read_bytes()[:cut])
    for look in (corpus.generated, lambda: len(corpus), lambda: list(corpus.dialogues())):
        with pytest.raises(
            ConfigError, match=r"shard-00001\.safetensors is damaged .*: delete it and the shards after"
        ):
            look()


def test_a_file_that_is_no_shard_is_named(corpus: Corpus) -> None:
    from safetensors.numpy import save_file

    save_file({"ids": np.zeros(3, np.int32)}, corpus.shards[1], {"kinds": "free", "generated": "3"})
    with pytest.raises(ConfigError, match=r"shard-00001\.safetensors is damaged"):
        list(corpus.dialogues())
    save_file({"ids": np.zeros(3, np.int32)}, corpus.shards[1])
    with pytest.raises(ConfigError, match=r"shard-00001\.safetensors is damaged"):
        corpus.generated()


def test_a_gap_is_refused_rather_than_written_over(corpus: Corpus) -> None:
    shutil.move(corpus.shards[0], corpus.directory.parent / "elsewhere")
    with pytest.raises(ConfigError, match=r"lacks shard-00000\.safetensors"):
        corpus.append(FIRST)
