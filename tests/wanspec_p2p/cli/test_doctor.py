from __future__ import annotations

import asyncio
import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import addresses
from coordinator.admin import create_api_key, issue_join_token, peers, revoke_peer
from coordinator.settings import CoordinatorSettings
from node import daemon, hardware
from node.hardware import Gpu, Hardware
from node.settings import NodeSettings
from tests.support.certificates import self_made
from tests.support.fake_coordinator import FakeCoordinator, serving
from tests.support.whole_network import coordinator_in_a_thread
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import doctor
from wanspec_p2p.cli.doctor import check_clock, check_disk, check_driver, check_keys
from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.locking import locked
from wanspec_p2p.types import Role

MACHINE = Hardware("Linux", 2, 2**30, 2**30, (), "no NVIDIA driver: not found")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(hardware, "inspect", lambda: MACHINE)
    monkeypatch.setattr(doctor, "check_driver", lambda devices, check=check_driver: check(Path("/nowhere")))


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading torch takes seconds; choosing a device is tested where it is done."""
    monkeypatch.setattr(doctor, "_device", lambda: Finding("device", True, "cpu: chosen by the test"))


def test_a_machine_in_order(run: Run) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    checks = [line.split(":")[0] for line in out.splitlines()]
    assert checks == [
        "✓ python", "✓ machine", "✓ torch", "✓ device", "✓ driver", "✓ settings", "✓ model cache", "✓ disk", "✓ clock",
        "✓ loopback", "✓ keys",
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
    assert code == ExitCode.FAILURE
    assert "cannot be written: set WANSPEC_CACHE_DIR (or cache_dir of the service) to a folder that can" in out


def test_the_way_to_a_coordinator_is_tried(run: Run) -> None:
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("doctor", "--coordinator", url)
        assert code == 0 and f"✓ coordinator: {url} serves smollm2-135m" in out
    code, out, _ = run("doctor", "--coordinator", url)
    assert code == ExitCode.FAILURE and f"✗ coordinator: nobody answers at {url}" in out


def write_settings(home: Path, text: str) -> Path:
    file = home / ".config/wanspec/wanspec.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_the_way_to_a_coordinator_is_tried_with_what_the_file_says_of_it(run: Run, home: Path) -> None:
    certificate, key, fingerprint = self_made(home)
    settings = CoordinatorSettings(data_dir=home / "there", tls_cert=certificate, tls_key=key)
    with coordinator_in_a_thread(settings):
        known = addresses.load(settings)
        assert known is not None
        secret = create_api_key(settings, "us")
        write_settings(home, f'[submitter]\napi_key = "{secret}"\nfingerprint = "{fingerprint}"\n')
        code, out, _ = run("doctor", "--coordinator", known.http)
    assert code == 0 and f"✓ coordinator: {known.http} answers" in out
    assert "✓ coordinator's clock: within 30 s of this one" in out


def test_settings_that_no_command_would_take_are_found(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_settings(home, "[coordinator\n")
    code, out, err = run("doctor", "--coordinator", "http://127.0.0.1:9")
    assert (code, err) == (ExitCode.FAILURE, "")
    assert out.count(f"✗ settings: {file} is not valid TOML: ") == 1, "once, and not once for each service"
    assert f"✗ coordinator: {file} is not valid TOML: " in out
    write_settings(home, "[coordinator]\nprot = 1\n[target]\nslots = 0\n[submitter]\nkey = 1\n")
    monkeypatch.setenv("WANSPEC_NODE_SLOT", "9")
    findings = json.loads(run("doctor", "--json")[1])
    assert [finding["detail"] for finding in findings if finding["check"] == "settings"] == [
        f"coordinator.prot in {file} is not a setting: did you mean port?",
        "variable WANSPEC_NODE_SLOT is not a setting: did you mean WANSPEC_NODE_SLOTS?",
        f"[target]: slots must be between 1 and 4096, not 0 (file {file})",
        f"submitter.key in {file} is not a setting: did you mean api_key?",
    ]


def test_services_are_looked_at_where_settings_say_they_are(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n", "t", "c"):
        (home / name).mkdir()
        (home / name / "identity.pem").touch(mode=0o600)
    (home / "n/coordinator.json").write_text("{}")
    (home / "t/coordinator.json").write_text("{}")
    (home / "c/tls").mkdir()
    (home / "c/tls/tls-certificate.pem").write_text("junk")
    write_settings(home, f'[node]\ndata_dir = "{home}/n"\ncache_dir = "{home}/m"\n[coordinator]\ndata_dir = "~/c"\n')
    monkeypatch.setenv("WANSPEC_TARGET_DATA_DIR", str(home / "t"))
    code, out, _ = run("doctor")
    assert code == ExitCode.FAILURE
    usual = home / ".local/share/wanspec"
    assert f"✓ keys: 3 under {usual}, {home}/n, {home}/t, {home}/c, readable by you alone" in out
    for role, place in (("node", "n"), ("target", "t")):
        assert f"✗ way of the {role}: {home / place / 'coordinator.json'} " in out
    assert f"✗ certificate: {home}/c/tls/tls-certificate.pem is damaged" in out
    assert f"✓ model cache: {home}/m: " in out and f"GiB free for {home}/m" in out and f"GiB free for {home}/n" in out


def test_clocks_that_differ_are_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec_p2p.client.Client.wall", lambda self: 0.0)
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("doctor", "--coordinator", url)
    assert code == ExitCode.FAILURE and "✗ coordinator's clock: our clocks differ by much" in out
    assert "✓ coordinator: " in out


def test_a_node_that_is_not_enrolled_any_more_is_found(run: Run, home: Path) -> None:
    settings, data = CoordinatorSettings(data_dir=home / "there"), home / ".local/share/wanspec/node"
    with coordinator_in_a_thread(settings):
        token = issue_join_token(settings, role=Role.NODE).encode()
        asyncio.run(daemon.enrol(NodeSettings(data_dir=data, cache_dir=home, join=token)))
        with locked(data / "node.lock", "node"):  # it runs
            code, out, _ = run("doctor")
        assert code == 0 and "✓ enrolment of the node: enrolled (pool default) as " in out
        revoke_peer(settings, peers(settings)[0].peer)
        code, out, _ = run("doctor")
        assert code == ExitCode.FAILURE and "✗ enrolment of the node: refused: this key is not enrolled here" in out
        code, out, _ = run("doctor", "--json")
        (finding,) = [finding for finding in json.loads(out) if finding["check"] == "enrolment of the node"]
        assert code == ExitCode.FAILURE and set(finding) == {"check", "ok", "detail"} and finding["ok"] is False
    assert sorted(path.name for path in data.iterdir()) == ["coordinator.json", "identity.pem", "node.lock"]


# The driver and the disk ----------------------------------------------------------------------------------------------


def pci(directory: Path, name: str, vendor: str, kind: str) -> None:
    (directory / name).mkdir()
    (directory / name / "vendor").write_text(vendor + "\n")
    (directory / name / "class").write_text(kind + "\n")


def test_a_gpu_without_its_driver_is_found(tmp_path: Path) -> None:
    (tmp_path / "0000:00:00.0").mkdir()  # one that does not say what it is
    pci(tmp_path, "0000:00:01.0", "0x8086", "0x030000")  # somebody else's
    pci(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # a GPU's sound
    assert check_driver(tmp_path) == Finding("driver", True, "no NVIDIA GPU in this machine; models run on what it has")
    pci(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    finding = check_driver(tmp_path)
    assert not finding.ok and "0000:01:00.0" in finding.detail and "install NVIDIA's driver" in finding.detail


def test_a_gpu_with_its_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA RTX", 24 * 2**30, 20 * 2**30)
    monkeypatch.setattr(hardware, "inspect", lambda: replace(MACHINE, gpus=(gpu,)))
    assert check_driver(tmp_path) == Finding("driver", True, "NVIDIA RTX with 20 GiB free")


def test_a_disk_that_is_nearly_full_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    rooms = {tmp_path / "data": 2**40, tmp_path: 2**30}
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(rooms[path]))
    finding = check_disk([tmp_path / "data"], [tmp_path / "not yet" / "cache"])
    assert not finding.ok
    assert finding.detail.endswith(f"make room for at least 2.0 GiB for {tmp_path / 'not yet' / 'cache'}")
    rooms[tmp_path] = 2**40
    assert check_disk([tmp_path / "data"], [tmp_path / "cache"]).ok
