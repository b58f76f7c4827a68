"""Nodes and targets ask a real coordinator whether it will have them, and then join it: whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import coordinator.service
from coordinator.admin import issue_join_token, open_join_tokens, peers, revoke_peer
from coordinator.settings import CoordinatorSettings
from node import daemon
from node.settings import NodeSettings
from tests.support.certificates import self_made
from tests.support.whole_network import free_port, running, scripted, until
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.errors import CloseCode, PeerRefused
from wanspec_p2p.links import membership
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.target import service
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role


@dataclass
class Bench:
    """A coordinator at a fixed port, up only while a test has it run, and a peer that is given a token of it."""

    role: Role
    coordinator: CoordinatorSettings
    settings: Any
    enrol: Callable[[Any], Awaitable[None]]
    run: Callable[..., Awaitable[None]]

    @property
    def file(self) -> Path:
        return self.settings.data_dir / "coordinator.json"

    @property
    def peer(self) -> str:
        return Identity.load_or_create(self.settings.data_dir / "identity.pem").peer_id

    def token(self) -> str:
        url = f"http://127.0.0.1:{self.coordinator.port}"
        return issue_join_token(self.coordinator, role=self.role, url=url).encode()

    async def present(self, url: str) -> set[str]:
        async with AsyncClient(url) as client:
            state = await client.state()
        return {entry["id"] for entry in [*state["nodes"], *state["targets"]]}


@pytest.fixture(params=[Role.NODE, Role.TARGET])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    scripted(monkeypatch)
    ours = CoordinatorSettings(data_dir=tmp_path / "coordinator", port=free_port())
    where = {"data_dir": tmp_path / "peer", "cache_dir": tmp_path, "name": "lab-a", "owner": "ada"}
    if request.param is Role.NODE:
        made = Bench(Role.NODE, ours, NodeSettings(**where), daemon.enrol, daemon.run)
    else:
        made = Bench(Role.TARGET, ours, TargetSettings(**where), service.enrol, service.run)
    made.settings = replace(made.settings, join=made.token())
    return made


async def test_the_token_is_spent_by_asking_and_the_peer_then_comes_as_a_member(bench: Bench) -> None:
    async with running(coordinator.service.run, bench.coordinator) as url:
        with capture_logs() as logs:
            await bench.enrol(bench.settings)
            await until(lambda: any(line["event"] == "peer left" for line in logs))
        assert [line["log_level"] for line in logs] == ["info"] * len(logs)
        assert await bench.present(url) == set()
        assert open_join_tokens(bench.coordinator) == []
        (enrolled,) = peers(bench.coordinator)
        assert (enrolled.peer, enrolled.role, enrolled.name, enrolled.owner) == (bench.peer, bench.role, "lab-a", "ada")
        known = membership.load(bench.file)
        assert known is not None and known.said.owner == "ada"
        async with running(bench.run, bench.settings):
            assert await bench.present(url) == {bench.peer}
    assert len(peers(bench.coordinator)) == 1


async def test_a_token_that_was_used_is_said_and_nothing_is_remembered(bench: Bench, tmp_path: Path) -> None:
    async with running(coordinator.service.run, bench.coordinator):
        await bench.enrol(replace(bench.settings, data_dir=tmp_path / "another"))
        with pytest.raises(PeerRefused, match="^the join token has been used already: ask for a new one$") as refusal:
            await bench.enrol(bench.settings)
    assert refusal.value.code == CloseCode.JOIN_REFUSED
    assert not bench.file.exists()


async def test_a_peer_that_was_revoked_is_told_so_when_it_runs_again(bench: Bench) -> None:
    async with running(coordinator.service.run, bench.coordinator):
        await bench.enrol(bench.settings)
        revoke_peer(bench.coordinator, bench.peer)
        with pytest.raises(PeerRefused, match="not enrolled") as refusal:
            await bench.enrol(replace(bench.settings, join=None))
    assert refusal.value.code == CloseCode.NOT_ENROLLED


async def test_a_coordinator_that_starts_later_is_joined_later(bench: Bench) -> None:
    with capture_logs() as logs:
        await bench.enrol(bench.settings)
    assert [line["event"] for line in logs] == ["no coordinator yet: it is asked again when the model is ready"]
    assert not bench.file.exists()
    async with running(coordinator.service.run, bench.coordinator) as url, running(bench.run, bench.settings):
        assert await bench.present(url) == {bench.peer}


async def test_a_coordinator_that_goes_away_in_between_is_waited_for(bench: Bench) -> None:
    async with running(coordinator.service.run, bench.coordinator):
        await bench.enrol(bench.settings)
    ready, stop = asyncio.Event(), asyncio.Event()
    with capture_logs() as logs:
        joining = asyncio.ensure_future(bench.run(bench.settings, ready=lambda where: ready.set(), stop=stop))
        await until(lambda: any(line["event"] == "no coordinator" for line in logs))
    async with asyncio.timeout(30), running(coordinator.service.run, bench.coordinator):
        await ready.wait()
        stop.set()
        await joining


async def test_a_coordinator_that_has_forgotten_it_in_between_is_shown_the_token(bench: Bench) -> None:
    async with running(coordinator.service.run, bench.coordinator):
        pass
    before = bench.coordinator.ledger_file.read_bytes()
    async with running(coordinator.service.run, bench.coordinator):
        await bench.enrol(bench.settings)
    for file in bench.coordinator.data_dir.glob(f"{bench.coordinator.ledger_file.name}*"):
        file.unlink()
    bench.coordinator.ledger_file.write_bytes(before)  # a backup from before: nobody is enrolled
    assert peers(bench.coordinator) == []
    async with running(coordinator.service.run, bench.coordinator) as url, running(bench.run, bench.settings):
        assert await bench.present(url) == {bench.peer}


async def test_the_coordinator_may_be_at_another_address(bench: Bench) -> None:
    elsewhere = f"ws://127.0.0.1:{bench.coordinator.port}"
    token = issue_join_token(bench.coordinator, role=bench.role, url=f"http://127.0.0.1:{free_port()}").encode()
    settings = replace(bench.settings, join=token, coordinator_urls=(elsewhere,))
    async with running(coordinator.service.run, bench.coordinator):
        await bench.enrol(settings)
    assert json.loads(bench.file.read_text())["url"] == elsewhere


async def test_a_node_may_look_for_the_coordinator_on_the_local_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key, fingerprint = self_made(tmp_path)
    ours = CoordinatorSettings(data_dir=tmp_path / "coordinator", port=free_port(), tls_cert=cert, tls_key=key)
    found = f"wss://127.0.0.1:{ours.port}"
    gone = issue_join_token(ours, role=Role.NODE, url=f"https://127.0.0.1:{free_port()}")

    async def find(peer: str, but: Collection[str]) -> str:
        return found

    monkeypatch.setattr(daemon, "find_on_local_network", find)
    settings = NodeSettings(data_dir=tmp_path / "peer", cache_dir=tmp_path, join=gone.encode(), discover=True)
    async with running(coordinator.service.run, ours):
        await daemon.enrol(settings)
    known = json.loads((settings.data_dir / "coordinator.json").read_text())
    assert (known["url"], known["certificate"]) == (gone.url, fingerprint)
