from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.hub import download_snapshot


def quiet(label: str, done: int, total: int) -> None:
    pass


def test_only_files_that_cannot_run_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert download_snapshot("owner/model@abc", quiet) == tmp_path
    assert download_snapshot("owner/model", quiet) == tmp_path
    assert [(repo, revision) for repo, revision, _ in asked] == [("owner/model", "abc"), ("owner/model", None)]
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked[0][2])


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("cannot find the files on the hub\nand more words")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="the hub did not give owner/model: cannot find the files on the hub$"):
        download_snapshot("owner/model", quiet)
