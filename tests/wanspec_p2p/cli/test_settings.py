from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.settings import CoordinatorSettings
from node.settings import NodeSettings
from wanspec_p2p.cli import output
from wanspec_p2p.cli.settings import model_cache, prepare_model, service_settings, submitter
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.catalog import Catalog, Entry
from wanspec_p2p.types import Dtype


@pytest.fixture
def file(home: Path) -> Path:
    path = home / ".config" / "wanspec" / "wanspec.toml"
    path.parent.mkdir(parents=True)
    return path


def test_a_service_keeps_its_state_in_a_directory_of_its_own(home: Path) -> None:
    node = service_settings(NodeSettings, "node", {})
    assert node.data_dir == home / ".local/share/wanspec/node"
    assert node.cache_dir == home / ".cache/wanspec"
    assert service_settings(CoordinatorSettings, "coordinator", {}).data_dir.name == "coordinator"


def test_flags_that_are_no_settings_are_left_alone() -> None:
    settings = service_settings(NodeSettings, "node", {"json": True, "with_parent": False, "slots": 2})
    assert settings.slots == 2


def test_file_and_variables_count_where_no_flag_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[node]\nslots = 2\nowner = "ada"\ndtype = "float32"\n')
    monkeypatch.setenv("WANSPEC_NODE_OWNER", "grace")
    settings = service_settings(NodeSettings, "node", {"slots": None, "owner": None})
    assert (settings.slots, settings.owner, settings.dtype) == (2, "grace", Dtype.FLOAT32)


def test_a_submitter_is_told_where_by_flags_then_the_file(file: Path) -> None:
    file.write_text('[submitter]\ncoordinator = "https://c"\napi_key = "k"\n')
    assert submitter(None, None, None).url == "https://c"
    assert submitter("https://d", None, None).url == "https://d"
    assert submitter("https://d", None, None).api_key == "k"


def test_a_submitter_finds_the_coordinator_of_this_machine(home: Path) -> None:
    address = home / ".local/share/wanspec/coordinator/coordinator.json"
    address.parent.mkdir(parents=True)
    address.write_text('{"http": "http://127.0.0.1:5", "peers": "ws://127.0.0.1:5"}')
    assert submitter(None, None, None).url == "http://127.0.0.1:5"


@pytest.mark.parametrize(
    ("listens", "asked"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("c.example", "c.example")]
)
def test_a_coordinator_that_listens_everywhere_is_asked_on_loopback(home: Path, listens: str, asked: str) -> None:
    address = home / ".local/share/wanspec/coordinator/coordinator.json"
    address.parent.mkdir(parents=True)
    address.write_text(f'{{"http": "https://{listens}:5", "peers": "wss://{listens}:5"}}')
    assert submitter(None, None, None).url == f"https://{asked}:5"


@pytest.mark.parametrize("how", ["file", "variable"])
def test_a_submitter_finds_the_coordinator_of_this_machine_where_its_settings_say(
    home: Path, file: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (home / "c").mkdir()
    (home / "c/coordinator.json").write_text('{"http": "http://127.0.0.1:5", "peers": "ws://127.0.0.1:5"}')
    if how == "file":
        file.write_text(f'[coordinator]\ndata_dir = "{home}/c"\n')
    else:
        monkeypatch.setenv("WANSPEC_COORDINATOR_DATA_DIR", str(home / "c"))
    assert submitter(None, None, None).url == "http://127.0.0.1:5"


def test_a_submitter_without_a_coordinator_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match="none has run here: give --coordinator URL or set WANSPEC_COORDINATOR"):
        _ = submitter(None, None, None).url


def test_the_model_cache_is_the_users(home: Path) -> None:
    assert [entry.ready for entry in model_cache().entries()] == [False, False]


def test_only_models_of_the_catalog_that_are_not_there_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    entries = [Entry("here", "", "", 1, ready=True), Entry("absent", "", "", 1, ready=False)]
    monkeypatch.setattr(Catalog, "entries", lambda self: entries)
    monkeypatch.setattr(Catalog, "path", lambda self, name: asked.append(name))
    for name in ("here", "absent", "ngram", "/a/directory"):
        prepare_model(name, tmp_path)
    assert asked == ["absent"]


def test_bars_are_no_lines_of_a_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(output, "progress_bars", lambda: pytest.fail("bars were shown"))
    prepare_model("a directory", tmp_path, bars=False)


@pytest.mark.parametrize(("name", "fetched"), [("ngram", "smollm2-135m"), ("ngram:smollm2-draft", "smollm2-draft")])
def test_an_n_gram_drafter_needs_the_files_of_its_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, fetched: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Catalog, "path", lambda self, name: asked.append(name))
    prepare_model(name, tmp_path)
    assert asked == [fetched]
