"""A coordinator gets another certificate: nodes, target and a client in the middle of an answer come back unaided."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from coordinator.settings import CoordinatorSettings
from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import MODEL, Services, running_services, wait_for_drafters
from tests.support.whole_network import free_port
from wanspec_p2p.client import Client
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.links import membership
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.security.tls import certificate_fingerprint

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NODES, TOKENS = 2, 300
SECONDS = 60.0


def test_a_certificate_is_changed_under_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_orphans: None
) -> None:
    own = CoordinatorSettings(data_dir=tmp_path / "coordinator").certificate_dir
    certificate, key = load_or_create_certificate(own, "127.0.0.1", clock=SystemClock())
    first = certificate_fingerprint(certificate)
    # On loopback it shows a certificate only where one is named: here the one that it would make elsewhere.
    flags = ("--port", str(free_port()), "--tls-cert", str(certificate), "--tls-key", str(key))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running_services(tmp_path, nodes=NODES, run=flags) as services:
        with Client(services.url, api_key=services.key, fingerprint=first, timeout=SECONDS) as client:
            undisturbed = client.generate("hi", model=MODEL, max_tokens=TOKENS, temperature=0.0)
            with client.stream("hi", model=MODEL, max_tokens=TOKENS, temperature=0.0) as stream:
                assert next(iter(stream)).token_ids
                new = changed(services, first)
                assert list(stream), "the rest"
            assert stream.answer.token_ids == undisturbed.token_ids
            again = client.generate("ho", model=MODEL, max_tokens=8, temperature=0.0)
            assert len(again.token_ids) == 8
        nothing_is_left(services)
        wait_for_drafters(services, NODES)
        state = services.get("/api/state")
        assert (len(state["targets"]), len(state["nodes"])) == (1, NODES)
        assert services.tell("coordinator", "ca")["fingerprint"] == new != first
    for peer in ("target", *(f"node-{number}" for number in range(NODES))):
        known = membership.load(tmp_path / peer / "coordinator.json")
        assert known is not None and known.certificate == new


def changed(services: Services, first: str) -> str:
    """By the command, while the coordinator is stopped; the new fingerprint."""
    coordinator = services.processes["coordinator"]
    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(SECONDS) == 0
    said = services.tell("coordinator", "rotate-cert")
    assert said["old"] == first
    services.start_coordinator()
    return str(said["new"])
