from __future__ import annotations

import json
import plistlib
import stat
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from node.settings import NodeSettings
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import node_service
from wanspec_p2p.errors import ExitCode


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the service manager was told; it agrees to everything."""
    commands: list[str] = []

    def ask(command: tuple[str, ...]) -> tuple[bool, str]:
        commands.append(" ".join(command))
        return True, "active"

    monkeypatch.setattr(node_service, "_ask", ask)
    return commands


@pytest.fixture
def joined(home: Path) -> Path:
    """The data directory of a node that has joined."""
    place = home / ".local/share/wanspec/node"
    place.mkdir(parents=True)
    (place / "coordinator.json").touch()
    return place


@pytest.fixture
def unit(home: Path) -> Path:
    return home / ".config/systemd/user/wanspec-node.service"


def test_install_writes_the_unit_and_starts_it(run: Run, joined: Path, unit: Path, asked: list[str]) -> None:
    code, out, err = run("node", "service", "install")
    assert (code, err) == (0, "") and str(unit) in out
    assert f'ExecStart="{sys.executable}" "-P" "-m" "wanspec_p2p.cli" "node" "run"\n' in unit.read_text()
    assert stat.S_IMODE(unit.stat().st_mode) == 0o600
    started = ["daemon-reload", "enable wanspec-node.service", "restart wanspec-node.service"]
    assert asked == [f"systemctl --user {what}" for what in started]


def test_only_variables_that_say_where_things_are_go_into_the_unit(
    run: Run, joined: Path, unit: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANSPEC_CACHE_DIR", "/big disk")
    monkeypatch.setenv("WANSPEC_NODE_JOIN", "wanspec-join-1.secret")
    monkeypatch.setenv("WANSPEC_API_KEY", "wsk-secret")
    run("node", "service", "install")
    assert 'Environment="WANSPEC_CACHE_DIR=/big disk"\n' in unit.read_text()
    assert "secret" not in unit.read_text()


def test_the_way_out_of_the_network_goes_into_the_unit(
    run: Run, joined: Path, unit: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    run("node", "service", "install")
    assert 'Environment="HTTPS_PROXY=http://proxy.example:3128"\n' in unit.read_text()
    assert 'Environment="no_proxy=near.example"\n' in unit.read_text()


def test_directories_of_the_node_go_into_the_unit_in_full(
    run: Run, home: Path, unit: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine").mkdir()
    (home / "mine/coordinator.json").touch()
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANSPEC_NODE_DATA_DIR", "mine")
    monkeypatch.setenv("WANSPEC_NODE_CACHE_DIR", "~/models")
    monkeypatch.setenv("WANSPEC_WHEELS", "wheels")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert run("node", "service", "install")[0] == 0
    variables = [line for line in unit.read_text().splitlines() if line.startswith("Environment=")]
    assert variables == [
        'Environment="CUDA_VISIBLE_DEVICES=0"',
        f'Environment="WANSPEC_NODE_CACHE_DIR={home}/models"',
        f'Environment="WANSPEC_NODE_DATA_DIR={home}/mine"',
        f'Environment="WANSPEC_WHEELS={home}/wheels"',
    ]


def test_every_directory_a_node_reads_from_a_variable_goes_into_the_unit() -> None:
    read = {f"WANSPEC_NODE_{name}".upper() for name, kind in get_type_hints(NodeSettings).items() if kind is Path}
    assert read <= set(node_service.KEPT)


def test_a_relative_data_directory_of_the_file_is_named_in_full(
    run: Run, joined: Path, home: Path, unit: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / ".config/wanspec/wanspec.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[node]\ndata_dir = "node"\n')
    monkeypatch.chdir(joined.parent)
    assert run("node", "service", "install")[0] == 0
    assert f'"--data-dir" "{joined}"' in unit.read_text()


def test_dry_run_prints_and_changes_nothing(run: Run, joined: Path, unit: Path, asked: list[str]) -> None:
    code, out, _ = run("node", "service", "install", "--dry-run")
    assert code == 0 and "[Service]" in out and "# then: systemctl --user restart wanspec-node.service" in out
    _, out, _ = run("node", "service", "install", "--dry-run", "--json")
    assert json.loads(out)["file"] == str(unit) and "[Service]" in json.loads(out)["content"]
    _, out, _ = run("node", "service", "uninstall", "--dry-run")
    assert out == "systemctl --user disable --now wanspec-node.service\n"
    _, out, _ = run("node", "service", "uninstall", "--dry-run", "--json")
    assert json.loads(out) == {
        "file": str(unit),
        "commands": ["systemctl --user disable --now wanspec-node.service"],
    }
    assert not unit.exists() and asked == []


def test_a_node_that_never_joined_is_no_service(run: Run, unit: Path, asked: list[str]) -> None:
    code, out, err = run("node", "service", "install")
    assert (code, out) == (ExitCode.USAGE, "") and "first run `wanspec node join TOKEN`" in err
    assert err.count("\n") == 1 and not unit.exists()


def test_a_data_directory_of_its_own_is_named_in_full(
    run: Run, joined: Path, unit: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(joined.parent)
    assert run("node", "service", "install", "--data-dir", "node")[0] == 0
    assert f'"--data-dir" "{joined}"' in unit.read_text()


def test_a_manager_that_refuses_leaves_the_file_and_says_why(
    run: Run, joined: Path, unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_service, "_ask", lambda command: (False, "no bus"))
    code, out, _ = run("node", "service", "install", "--json")
    assert code == ExitCode.FAILURE and unit.exists()
    assert json.loads(out) == {
        "file": str(unit),
        "started": False,
        "reason": "`systemctl --user daemon-reload` says: no bus",
    }


def test_status_and_uninstall(run: Run, joined: Path, unit: Path, asked: list[str]) -> None:
    code, out, _ = run("node", "service", "status", "--json")
    assert code == ExitCode.FAILURE and json.loads(out)["installed"] is False
    run("node", "service", "install")
    code, out, _ = run("node", "service", "status")
    assert (code, out) == (0, f"{unit}: active\n")
    code, out, _ = run("node", "service", "uninstall")
    assert (code, out, unit.exists()) == (0, f"{unit} is removed\n", False)
    assert asked[-1] == "systemctl --user disable --now wanspec-node.service"
    assert (joined / "coordinator.json").exists()
    assert run("node", "service", "uninstall") == (0, "no service is installed\n", "")


def test_on_a_mac_launchd_is_told(
    run: Run, joined: Path, home: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run("node", "service", "install")[0] == 0
    file = home / "Library/LaunchAgents/wanspec.node.plist"
    assert plistlib.loads(file.read_bytes())["ProgramArguments"][-3:] == ["node", "run", "--log-json"]
    assert asked[0].startswith("launchctl bootstrap gui/") and asked[0].endswith(str(file))


def test_elsewhere_there_is_none(run: Run, joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert "there is no service for win32" in run("node", "service", "install")[2]


def test_a_manager_that_is_not_there_or_says_no_is_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_service._ask(("wanspec-no-such-manager",)) == (
        False,
        "there is no wanspec-no-such-manager on this machine",
    )
    assert node_service._ask((sys.executable, "-c", "print('fine')")) == (True, "fine")
    assert node_service._ask((sys.executable, "-c", "raise SystemExit('no')")) == (False, "no")
    assert node_service._ask((sys.executable, "-c", "raise SystemExit(3)")) == (False, "status 3")
