from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.certificates import self_made
from tests.support.past_coordinators import once_run
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.security.tls import certificate_fingerprint


@pytest.fixture
def place(home: Path) -> Path:
    """The data directory of a coordinator that has run."""
    return once_run(home / ".local/share/wanspec/coordinator").data_dir


def key(place: Path) -> str:
    return Identity.load_or_create(place / "identity.pem").peer_id


def test_backup_and_restore(run: Run, place: Path, tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "copy.tar", tmp_path / "elsewhere"
    code, out, err = run("coordinator", "backup", str(copy))
    assert (code, err) == (0, "") and f"{copy} holds identity.pem, ledger.sqlite3 of the coordinator" in out
    code, out, _ = run("coordinator", "restore", str(copy), "--data-dir", str(elsewhere), "--json")
    assert code == 0 and json.loads(out)["coordinator"] == key(place) == key(elsewhere)
    assert "is the coordinator" in run("coordinator", "restore", str(copy), "--data-dir", str(tmp_path / "third"))[1]
    for command in (("backup", str(copy)), ("restore", str(copy))):
        code, out, err = run("coordinator", *command)
        assert (code, out) == (ExitCode.USAGE, "") and "is not overwritten" in err and err.count("\n") == 1


def test_backup_as_json(run: Run, place: Path, tmp_path: Path) -> None:
    printed = json.loads(run("coordinator", "backup", str(tmp_path / "copy.tar"), "--json")[1])
    assert printed["files"] == ["identity.pem", "ledger.sqlite3"] and printed["coordinator"] == key(place)


def test_rotate_key(run: Run, place: Path) -> None:
    old = key(place)
    code, out, _ = run("coordinator", "rotate-key", "--json")
    assert code == 0 and json.loads(out) == {"old": old, "new": key(place)} and old != key(place)
    assert "take a new backup" in run("coordinator", "rotate-key")[1]


def test_rotate_cert(run: Run, place: Path) -> None:
    code, out, err = run("coordinator", "rotate-cert")
    assert (code, out) == (ExitCode.USAGE, "") and "there is no certificate" in err and err.count("\n") == 1
    certificate, _ = load_or_create_certificate(place / "tls", "llm.example", clock=SystemClock())
    first = certificate_fingerprint(certificate)
    code, out, _ = run("coordinator", "rotate-cert", "--json")
    second = certificate_fingerprint(certificate)
    assert code == 0 and json.loads(out) == {"old": first, "new": second} and first != second
    code, out, _ = run("coordinator", "rotate-cert")
    assert second in out and certificate_fingerprint(certificate) in out and "take a new backup" in out


def test_ca_prints_the_certificate_submitters_trust(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private, fingerprint = self_made(home)
    code, out, err = run("coordinator", "ca")
    assert (code, out) == (ExitCode.USAGE, "") and "speaks plain HTTP on loopback" in err
    monkeypatch.setenv("WANSPEC_COORDINATOR_TLS_CERT", str(certificate))
    monkeypatch.setenv("WANSPEC_COORDINATOR_TLS_KEY", str(private))
    code, out, err = run("coordinator", "ca")
    assert (code, out, err) == (0, certificate.read_text(), f"fingerprint {fingerprint}\n")
    printed = json.loads(run("coordinator", "ca", "--json")[1])
    assert printed == {"certificate": certificate.read_text(), "fingerprint": fingerprint}
