from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models import digests
from wanspec_p2p.models.directories import check_directory, directory_manifest, named_size, read_config


@pytest.fixture
def directory(tiny_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_directory, tmp_path / "model"))


def test_a_transformers_directory_is_accepted(directory: Path) -> None:
    check_directory(directory)
    assert read_config(directory)["model_type"] == "llama"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused(directory: Path, name: str) -> None:
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(ModelError, match="pickled weights.*convert them to safetensors"):
        check_directory(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(directory: Path, name: str) -> None:
    content = json.loads((directory / name).read_text())
    (directory / name).write_text(json.dumps({**content, "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}))
    with pytest.raises(ModelError, match="auto_map"):
        check_directory(directory)


def test_a_size_is_a_whole_number_where_there_is_one() -> None:
    assert [named_size({"size": value}, "size") for value in (7, 0, None)] == [7, None, None]
    assert named_size({}, "size") is None
    for odd in (-1, 1.5, float("nan"), "7", [7], True):
        with pytest.raises(ModelError, match="size is .*, which is no size: mend config.json"):
            named_size({"size": odd}, "size")


@pytest.mark.parametrize(
    "file", ["weights.bin", "sub/model.safetensors", "../model.safetensors", "a\\b.safetensors", 5]
)
def test_an_index_names_only_what_the_digest_covers(directory: Path, file: object) -> None:
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model.safetensors"}}))
    check_directory(directory)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model.safetensors", "model.norm.weight": file}}))
    with pytest.raises(ModelError, match="which is no safetensors file beside it"):
        check_directory(directory)
    index.write_text("{}")
    with pytest.raises(ModelError, match="has no weight_map"):
        check_directory(directory)


def test_weights_from_elsewhere_are_refused(directory: Path) -> None:
    config = read_config(directory)
    (directory / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    with pytest.raises(ModelError, match="transformers_weights"):
        check_directory(directory)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge the adapter into the weights"):
        check_directory(directory)


def test_missing_and_damaged_parts_are_one_line(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no \\*.safetensors"):
        check_directory(directory)
    for content in ("{", "[]", "[" * 200_000):
        (directory / "config.json").write_text(content)
        with pytest.raises(ModelError, match="not "):
            check_directory(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_directory(directory)


def test_digests_are_remembered_until_a_file_changes(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    honest = digests.sha256_file

    def count(path: Path) -> str:
        taken.append(path.name)
        return honest(path)

    monkeypatch.setattr(digests, "sha256_file", count)
    first = directory_manifest(directory, tmp_path / "remembered")
    assert "model.safetensors" in taken and len(set(taken)) == len(taken)
    taken.clear()
    assert directory_manifest(directory, tmp_path / "remembered") == first
    assert taken == []
    (directory / "model.safetensors").write_bytes(b"others")
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert directory_manifest(directory, tmp_path / "remembered").digest != first.digest
    (directory / "model.safetensors").unlink()
    assert "model.safetensors" not in directory_manifest(directory, tmp_path / "remembered").files
