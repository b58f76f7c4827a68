"""`wanspec doctor` asks a real coordinator about peers that run, that were revoked, that are not who they say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.admin import issue_join_token, open_join_tokens, peers, revoke_peer
from node import daemon
from node.settings import NodeSettings
from tests.support.whole_network import WholeNetwork, scripted, until
from wanspec_p2p.cli.doctor_ways import remembered_coordinators
from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

REFUSED = (
    "refused: this key is not enrolled here: join with a token first (where it was revoked or forgotten, a new one of "
    "the coordinator's operator: `wanspec node join TOKEN`)"
)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeNetwork:
    scripted(monkeypatch)
    return WholeNetwork(tmp_path)


async def found(data: Path) -> dict[str, Finding]:
    findings = await asyncio.to_thread(lambda: list(remembered_coordinators({role: data / role for role in Role})))
    return {finding.check: finding for finding in findings}


async def enrolment(network: WholeNetwork, role: Role = Role.NODE) -> Finding:
    return (await found(network.directory))[f"enrolment of the {role}"]


async def enrol(network: WholeNetwork) -> None:
    data, token = network.directory / "node", issue_join_token(network.settings, role=Role.NODE)
    await daemon.enrol(NodeSettings(data_dir=data, cache_dir=data, join=token.encode()))


def files(*directories: Path) -> Mapping[str, tuple[bytes, int]]:
    """What is in them, and when it was written."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


async def test_peers_that_run_are_enrolled_and_do_not_notice_that_somebody_asked(network: WholeNetwork) -> None:
    ours = [network.directory / "node", network.directory / "target"]
    async with network.coordinator() as url, network.target(), network.node(), AsyncClient(url) as client:
        await network.drafting(client)
        issue_join_token(network.settings, role=Role.NODE)
        tokens, known, before = open_join_tokens(network.settings), peers(network.settings), files(*ours)
        with capture_logs() as logs:
            findings = await found(network.directory)  # both hold the lock of their data directory
            await until(lambda: [line["event"] for line in logs].count("peer left") == 4)  # two ways, two questions
        for directory in ours:
            peer = Identity.load(directory / "identity.pem")
            assert peer is not None
            check = f"enrolment of the {directory.name}"
            assert findings[check] == Finding(check, True, f"enrolled (pool default) as {peer.peer_id[:8]}")
        assert all(finding.ok for finding in findings.values())
        assert {line["log_level"] for line in logs} <= {"info", "debug"}
        assert not {line["event"] for line in logs} & {"registering", "no coordinator", "target lost", "lease ended"}
        assert files(*ours) == before
        assert (open_join_tokens(network.settings), peers(network.settings)) == (tokens, known)
        assert (await client.generate("still there", max_tokens=8)).text
        assert len((await network.drafting(client))["nodes"]) == 1


async def test_a_peer_that_was_revoked_is_told_so_until_it_joins_again(network: WholeNetwork) -> None:
    async with network.coordinator():
        await enrol(network)
        assert (await enrolment(network)).ok
        revoke_peer(network.settings, peers(network.settings)[0].peer)
        before = files(network.directory / "node")
        assert await enrolment(network) == Finding("enrolment of the node", False, REFUSED)
        assert files(network.directory / "node") == before and peers(network.settings) == []
        await enrol(network)
        assert (await enrolment(network)).ok
    assert not (await found(network.directory))["way of the node"].ok


async def test_a_coordinator_that_has_forgotten_the_peer_spends_no_token_on_it(
    network: WholeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network.coordinator():
        await enrol(network)
        revoke_peer(network.settings, peers(network.settings)[0].peer)  # as a backup from before would have it
        token = issue_join_token(network.settings, role=Role.NODE)
        monkeypatch.setenv("WANSPEC_NODE_JOIN", token.encode())
        assert (await enrolment(network)).detail == REFUSED
        assert len(open_join_tokens(network.settings)) == 1


async def test_a_key_that_is_gone_is_not_made_anew(network: WholeNetwork) -> None:
    async with network.coordinator():
        await enrol(network)
        (network.directory / "node/identity.pem").unlink()
        before = files(network.directory / "node")
        assert "is gone from" in (await enrolment(network)).detail
        assert files(network.directory / "node") == before


async def test_a_directory_that_was_copied_from_another_service_is_told_apart(network: WholeNetwork) -> None:
    async with network.coordinator():
        await enrol(network)
        shutil.copytree(network.directory / "node", network.directory / "target")
        finding = await enrolment(network, Role.TARGET)
    assert not finding.ok and finding.detail.startswith(
        "refused: this key is enrolled as a node: a target needs a --data-dir and a join token of its own"
    )
