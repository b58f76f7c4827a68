from __future__ import annotations

import os
from pathlib import Path

import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import locked


def test_the_lock_is_held_once_and_can_be_taken_again_after(tmp_path: Path) -> None:
    path = tmp_path / "data" / "coordinator.lock"
    with locked(path, "coordinator"):
        with (
            pytest.raises(ConfigError, match=rf"another coordinator \(process {os.getpid()}\) runs on {path.parent}"),
            locked(path, "coordinator"),
        ):
            pass
    with locked(path, "coordinator"):
        assert path.read_text().strip().isdigit()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), locked(tmp_path / "file" / "lock", "node"):
        pass
