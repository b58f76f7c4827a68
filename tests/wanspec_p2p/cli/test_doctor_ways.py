from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from coordinator import keys
from coordinator.admin import issue_join_token
from coordinator.settings import CoordinatorSettings
from tests.support.certificates import self_made
from tests.support.whole_network import coordinator_in_a_thread
from wanspec_p2p.cli import doctor_ways
from wanspec_p2p.cli.doctor_ways import certificates, check_certificate, remembered_coordinators
from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.links import membership
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.protocol import limits
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.types import Role


@pytest.fixture
def settings(tmp_path: Path) -> CoordinatorSettings:
    certificate, key, _ = self_made(tmp_path)
    return CoordinatorSettings(data_dir=tmp_path / "data" / "coordinator", tls_cert=certificate, tls_key=key)


def joined(settings: CoordinatorSettings) -> Path:
    """The data of somebody whose node joined this coordinator, which runs. Its key nobody has enrolled."""
    token = issue_join_token(settings, role=Role.NODE)
    data = settings.data_dir.parents[1] / "mine"
    Identity.load_or_create(data / "node/identity.pem")
    membership.store(data / "node/coordinator.json", Membership(token.url, token.coordinator, token.certificate))
    return data


def homes(data: Path) -> dict[Role, Path]:
    return {role: data / role for role in Role}


def found(data: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in remembered_coordinators(homes(data))}


def test_the_way_to_the_coordinator_that_was_joined_is_walked(settings: CoordinatorSettings) -> None:
    with coordinator_in_a_thread(settings):
        data = joined(settings)
        way, enrolment, clock = found(data).values()
        assert way.ok and way.detail.endswith("is the coordinator that was joined (TLS with the pinned certificate)")
        assert enrolment.check == "enrolment of the node"
        assert not enrolment.ok and enrolment.detail.startswith("refused: this key is not enrolled here")
        assert clock == Finding("way of the node, clock", True, "within 30 s of this one")
    way, clock = found(data).values()  # whom nobody answers cannot ask
    assert not way.ok and "nobody answers" in way.detail
    assert not clock.ok


def test_a_new_key_is_followed_and_another_coordinator_is_not(settings: CoordinatorSettings) -> None:
    with coordinator_in_a_thread(settings):
        data = joined(settings)
    known = membership.load(data / "node/coordinator.json")
    assert known is not None
    settings = replace(settings, port=int(known.url.rpartition(":")[2]))
    _, new = keys.rotate(settings)
    with coordinator_in_a_thread(settings):
        assert f"whose key has changed to {new.peer_id[:8]} since" in found(data)["way of the node"].detail
        stranger = msgspec.structs.replace(known, coordinator=Identity.generate().public_key)
        membership.store(data / "node/coordinator.json", stranger)
        way = found(data)["way of the node"]
        assert not way.ok and "the statement of the coordinator's new key is not valid" in way.detail
        membership.store(data / "node/coordinator.json", msgspec.structs.replace(known, certificate="0" * 64))
        assert "shows a certificate with fingerprint" in found(data)["way of the node"].detail


def test_a_new_certificate_that_the_old_one_signed_is_followed(settings: CoordinatorSettings) -> None:
    certificate, key = load_or_create_certificate(settings.certificate_dir, "localhost", clock=SystemClock())
    settings = replace(settings, tls_cert=certificate, tls_key=key)
    with coordinator_in_a_thread(settings):
        data = joined(settings)
    known = membership.load(data / "node/coordinator.json")
    assert known is not None
    keys.rotate_certificate(settings)
    with coordinator_in_a_thread(replace(settings, port=int(known.url.rpartition(":")[2]))):
        way, enrolment, clock = found(data).values()
    assert way.ok and way.detail.endswith(
        "is the coordinator that was joined (TLS with the successor of the pinned certificate)"
    )
    assert clock.ok and enrolment.detail.startswith("refused: this key is not enrolled here")


@pytest.mark.parametrize(("off", "words"), [(100.0, "s ahead"), (-100.0, "s behind")])
def test_a_clock_that_is_off_is_found_whichever_way(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch, off: float, words: str
) -> None:
    with coordinator_in_a_thread(settings):
        data = joined(settings)
        real = doctor_ways.time.time
        monkeypatch.setattr(doctor_ways.time, "time", lambda: real() + off)
        clock = found(data)["way of the node, clock"]
    assert not clock.ok and words in clock.detail and "leases depend on it" in clock.detail


def test_a_coordinator_that_is_silent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.2)
    monkeypatch.setattr(doctor_ways, "CLOCK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        home = Membership(f"ws://127.0.0.1:{silent.getsockname()[1]}", Identity.generate().public_key, None)
        membership.store(tmp_path / "node/coordinator.json", home)
        way, clock = found(tmp_path).values()
    assert not way.ok and way.detail.endswith("did not answer within 0.2 s")
    assert not clock.ok and clock.detail.endswith("in time")


def test_who_has_joined_nothing_has_no_way_to_walk(tmp_path: Path) -> None:
    assert list(remembered_coordinators(homes(tmp_path))) == []


def test_a_damaged_membership_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/coordinator.json").write_text("{}")
    findings = list(remembered_coordinators(homes(tmp_path)))
    assert findings and all(not finding.ok and "join again" in finding.detail for finding in findings)


def test_a_directory_that_cannot_be_looked_into_is_a_finding(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 300)  # longer than a name may be
    (way,) = remembered_coordinators({**homes(tmp_path), Role.NODE: home})
    assert way == Finding("way of the node", False, f"{home / 'coordinator.json'} cannot be read: File name too long")


def test_certificates_are_looked_at_before_they_end(tmp_path: Path) -> None:
    clock = ManualClock()
    pem, _ = load_or_create_certificate(tmp_path / "coordinator/tls", "localhost", clock=clock)
    of_target, _ = load_or_create_certificate(tmp_path / "target", "localhost", clock=clock)
    assert [finding.ok for finding in certificates(clock.wall(), tmp_path)] == [True, True]
    assert len(list(certificates(clock.wall(), tmp_path / "none", pem.parents[1], of_target.parent))) == 2
    years = 365 * 86_400.0
    assert check_certificate(pem, clock.wall() + 9 * years).ok
    end = clock.wall() + 10 * years - 86_400.0
    for file, remedy in ((pem, "run `wanspec coordinator rotate-cert`"), (of_target, "move it and its key away")):
        late = check_certificate(file, end)
        assert not late.ok and remedy in late.detail
    pem.write_bytes(b"junk")
    assert "is damaged" in check_certificate(pem, clock.wall()).detail
