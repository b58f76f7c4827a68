from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wanspec_p2p.errors import DigestMismatch, ModelError
from wanspec_p2p.models.digests import (
    MANIFEST,
    read_manifest,
    record_files,
    sha256_file,
    weights_digest,
    write_manifest,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    return tmp_path


def test_a_manifest_records_every_file_and_is_read_back(directory: Path) -> None:
    manifest = write_manifest(directory, "a test")
    assert read_manifest(directory) == manifest
    assert sorted(manifest.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert manifest.files["model.safetensors"].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []
    assert list(manifest.changed(directory)) == []


def test_weights_and_configuration_make_the_digest_and_the_tokenizer_does_not(directory: Path) -> None:
    before = write_manifest(directory, "a test").digest
    (directory / "tokenizer.json").write_bytes(b"{ }")
    assert write_manifest(directory, "a test").digest == before
    (directory / "config.json").write_bytes(b"{ }")
    configured = write_manifest(directory, "a test").digest
    assert configured != before
    (directory / "copying.json").write_bytes(b"{}")
    assert write_manifest(directory, "a test").digest not in {before, configured}
    assert weights_digest([("b.safetensors", "1"), ("a.safetensors", "2")]) == weights_digest(
        [("a.safetensors", "2"), ("b.safetensors", "1"), ("README.md", "3")]
    )


def test_a_changed_file_is_noticed_and_its_digest_decides(directory: Path) -> None:
    manifest = write_manifest(directory, "a test")
    path = directory / "model.safetensors"
    os.utime(path, ns=(1, 1))
    assert list(manifest.changed(directory)) == ["model.safetensors"]
    manifest.verify(directory, ["model.safetensors"])
    path.write_bytes(b"WEIGHTS")
    with pytest.raises(DigestMismatch, match="delete it and pull again"):
        manifest.verify(directory, ["model.safetensors"])
    path.unlink()
    assert list(manifest.changed(directory)) == ["model.safetensors"]
    with pytest.raises(ModelError, match="is missing"):
        manifest.verify(directory, ["model.safetensors"])


@pytest.mark.parametrize("content", [b"", b"[]", b'{"source": 3}'])
def test_a_manifest_that_cannot_be_read_counts_as_none(tmp_path: Path, content: bytes) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / MANIFEST).write_bytes(content)
    assert read_manifest(tmp_path) is None


def test_records_hold_size_and_time(directory: Path) -> None:
    record = record_files(directory, ["config.json"])["config.json"]
    assert (record.sha256, record.size) == (sha256_file(directory / "config.json"), 2)
    assert record.untouched(directory / "config.json")
