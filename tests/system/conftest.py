"""Real processes, cleaned up after by their own pids and looked for afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wanspec_p2p.cli.processes import wanspec_environment


@pytest.fixture
def environment(tmp_path: Path, model_cache: Path) -> Iterator[dict[str, str]]:
    """Of every process a test starts: the shared model cache, nobody's settings, and a place for temporary files that
    must be empty again at the end."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    inherited = {**os.environ, "WANSPEC_CACHE_DIR": str(model_cache)}
    yield wanspec_environment(inherited, tmp_path / "config") | {"TMPDIR": str(temporary)}
    assert [path.name for path in temporary.iterdir()] == []


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """Nothing that this test started, or that its children started, is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [process.cmdline() for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
