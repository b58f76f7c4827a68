from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fake_coordinator import FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import doctor
from wanspec_p2p.cli.doctor import Finding, check_clock, check_keys
from wanspec_p2p.errors import ExitCode


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading torch takes seconds; choosing a device is tested where it is done."""
    monkeypatch.setattr(doctor, "_device", lambda: Finding("device", True, "cpu: chosen by the test"))


def test_a_machine_in_order(run: Run) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    checks = [line.split(":")[0] for line in out.splitlines()]
    assert checks == [
        "✓ python", "✓ machine", "✓ torch", "✓ device", "✓ model cache", "✓ clock", "✓ loopback", "✓ keys",
    ]  # fmt: skip


def test_json(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert all(set(finding) == {"check", "ok", "detail"} and finding["ok"] for finding in json.loads(out))


def test_a_clock_that_was_never_set_is_found() -> None:
    assert not check_clock(0.0).ok
    assert "1970-01-01" in check_clock(0.0).detail
    assert check_clock(1_795_000_000.0) == Finding("clock", True, "2026-11-18 11:06:40 UTC")


def test_a_key_others_can_read_is_found(run: Run, home: Path) -> None:
    key = home / ".local/share/wanspec/node/identity.pem"
    key.parent.mkdir(parents=True)
    key.touch(mode=0o600)
    key.chmod(0o640)
    code, out, _ = run("doctor")
    assert code == ExitCode.FAILURE
    assert f"✗ keys: others can read {key}: chmod 600" in out
    key.chmod(0o600)
    assert check_keys(key.parents[1]).ok


def test_a_cache_that_cannot_be_written_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    code, out, _ = run("doctor")
    assert code == ExitCode.FAILURE and "set WANSPEC_CACHE_DIR to a folder that can" in out


def test_the_way_to_a_coordinator_is_tried(run: Run) -> None:
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("doctor", "--coordinator", url)
        assert code == 0 and f"✓ coordinator: {url} serves smollm2-135m" in out
    code, out, _ = run("doctor", "--coordinator", url)
    assert code == ExitCode.FAILURE and f"✗ coordinator: nobody answers at {url}" in out


def test_clocks_that_differ_are_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec_p2p.client.Client.wall", lambda self: 0.0)
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("doctor", "--coordinator", url)
    assert code == ExitCode.FAILURE and "our clocks differ by" in out
