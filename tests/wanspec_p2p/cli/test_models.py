from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import DigestMismatch, ExitCode
from wanspec_p2p.models.catalog import SMOLLM2, Catalog
from wanspec_p2p.models.digests import write_manifest


@pytest.fixture
def directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cached model in miniature, under the name of the embedded one."""
    directory = home / ".cache/wanspec/models/smollm2-135m"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    write_manifest(directory, SMOLLM2.requirement)
    return directory


def test_list(run: Run, directory: Path) -> None:
    code, out, err = run("models", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["name", "what", "licence", "size", "in", "the", "cache"]
    entries = json.loads(run("models", "list", "--json")[1])
    assert {entry["name"]: entry["ready"] for entry in entries} == {"smollm2-135m": True, "smollm2-draft": False}


def test_path_prints_the_directory_alone(run: Run, directory: Path) -> None:
    assert run("models", "path", "smollm2-135m") == (0, f"{directory}\n", "")


def test_pull_of_what_is_there_is_done_at_once(run: Run, directory: Path) -> None:
    code, out, _ = run("models", "pull", "smollm2-135m", "--json")
    assert (code, json.loads(out)) == (0, {"name": "smollm2-135m", "path": str(directory)})


def test_verify_names_the_files(run: Run, directory: Path) -> None:
    code, out, _ = run("models", "verify", "smollm2-135m", "--json")
    assert code == 0 and json.loads(out)["files"] == ["model.safetensors"]


def test_verify_does_not_say_that_a_directory_of_ones_own_is_what_it_was(
    run: Run, directory: Path, tmp_path: Path
) -> None:
    """What was changed since is digested anew."""
    assert "1 files are what they were" in run("models", "verify", "smollm2-135m")[1]
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    (own / "model.safetensors").write_bytes(b"weights")
    assert "2 files are as when they were last changed" in run("models", "verify", str(own))[1]


def test_a_damaged_file_is_one_line(run: Run, directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"changed")
    code, out, err = run("models", "verify", "smollm2-135m")
    assert (code, out) == (ExitCode.MODEL, "")
    assert "the file is damaged" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", [("list",), ("pull", "smollm2-135m"), ("path", "smollm2-135m")])
def test_a_cache_that_is_a_file_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    cache = tmp_path / "file"
    cache.write_bytes(b"")
    monkeypatch.setenv("WANSPEC_CACHE_DIR", str(cache))
    code, out, err = run("models", *command)
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert err.startswith(f"wanspec: the cache {cache} cannot be used (Not a directory): name a directory")


def test_an_unknown_model_is_one_line(run: Run) -> None:
    code, out, err = run("models", "path", "gpt-9")
    assert (code, out) == (ExitCode.MODEL, "")
    assert err.startswith("wanspec: no model 'gpt-9': known are smollm2-135m, smollm2-draft") and err.count("\n") == 1


def test_a_pull_that_fails_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Catalog, name: str) -> Path:
        raise DigestMismatch("the wheel", "a", "b")

    monkeypatch.setattr(Catalog, "path", fail)
    code, out, err = run("models", "pull", "smollm2-draft")
    assert (code, out, err.count("\n")) == (ExitCode.MODEL, "", 1)
