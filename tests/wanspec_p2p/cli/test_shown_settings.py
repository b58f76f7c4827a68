from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.wanspec_p2p.cli.conftest import Run


@pytest.fixture
def file(home: Path) -> Path:
    path = home / ".config" / "wanspec" / "wanspec.toml"
    path.parent.mkdir(parents=True)
    return path


def origins(out: str) -> dict[str, str]:
    return {line.split()[1 if line.startswith("#") else 0]: line.rpartition("  # ")[2] for line in out.splitlines()[1:]}


def test_each_value_is_shown_with_where_it_came_from(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[node]\nslots = 2\nowner = "ada"\nsite = "a \\"b\\""\n')
    monkeypatch.setenv("WANSPEC_NODE_OWNER", "grace")
    code, out, err = run("node", "run", "--show-config", "--threads", "3", "--coordinator-url", "wss://b")
    assert (code, err) == (0, "")
    found = origins(out)
    assert found["slots"] == f"file {file}"
    assert (found["owner"], found["threads"], found["model"]) == (
        "variable WANSPEC_NODE_OWNER",
        "command line",
        "default",
    )
    assert (found["coordinator_urls"], found["dtype"]) == ("command line", "default")
    shown = tomllib.loads(out)["node"]  # so it can be kept as wanspec.toml
    assert (shown["slots"], shown["owner"], shown["site"], shown["threads"]) == (2, "grace", 'a "b"', 3)
    assert shown["coordinator_urls"] == ["wss://b"] and "dtype" not in shown


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ("default", "default")),
        ({"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}, ("variable XDG_DATA_HOME", "variable XDG_CACHE_HOME")),
        ({"XDG_DATA_HOME": "d", "XDG_CACHE_HOME": ""}, ("default", "default")),
        (
            {"WANSPEC_DATA_DIR": "/d", "WANSPEC_CACHE_DIR": "/c", "XDG_DATA_HOME": "/x"},
            ("variable WANSPEC_DATA_DIR", "variable WANSPEC_CACHE_DIR"),
        ),
        (
            {"WANSPEC_DATA_DIR": "/d", "WANSPEC_NODE_DATA_DIR": "/n", "WANSPEC_NODE_CACHE_DIR": "/c"},
            ("variable WANSPEC_NODE_DATA_DIR", "variable WANSPEC_NODE_CACHE_DIR"),
        ),
    ],
)
def test_the_variable_that_a_directory_came_from_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: tuple[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = origins(run("node", "run", "--show-config")[1])
    assert (found["data_dir"], found["cache_dir"]) == said


@pytest.mark.parametrize("service", ["coordinator", "target", "node"])
def test_every_service_shows_what_it_would_run_with_and_does_not(run: Run, service: str, home: Path) -> None:
    code, out, _ = run(service, "run", "--show-config")
    assert code == 0 and out.startswith(f"[{service}]\n")
    assert tomllib.loads(out)[service]["data_dir"] == str(home / ".local/share/wanspec" / service)
    assert not (home / ".local").exists()


def test_what_is_shown_can_be_read_back(run: Run, file: Path) -> None:
    _, out, _ = run("target", "run", "--show-config", "--dtype", "float32", "--no-network")
    file.write_text(out)
    _, again, _ = run("target", "run", "--show-config")
    assert tomllib.loads(again) == tomllib.loads(out)
    assert set(origins(again).values()) == {"default", f"file {file}"}


def test_secrets_are_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANSPEC_NODE_JOIN", "wanspec-join-1.s3cret")
    for command in (("run",), ("join", "wanspec-join-1.s3cret")):
        for form in ((), ("--json",)):
            code, out, err = run("node", *command, "--show-config", *form)
            assert code == 0 and "s3cret" not in out + err and "not shown: it is a secret" in out


def test_as_json(run: Run) -> None:
    printed = json.loads(run("coordinator", "run", "--show-config", "--port", "9", "--json")[1])
    assert printed["port"] == {"value": 9, "origin": "command line"}
    assert printed["trusted_pools"] == {"value": [], "origin": "default"}
    assert printed["tls_cert"] == {"value": None, "origin": "default"}
