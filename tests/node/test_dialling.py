from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path

import pytest

from node.dialling import COORDINATOR_PATH, MAX_HINTS, Dialler, find_on_local_network
from tests.support.node_facts import NodeFacts
from wanspec_p2p.errors import CloseCode, ConfigError, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.discovery import Beacon
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.links.peer import accept
from wanspec_p2p.links.websocket import DRAFT_PATH, Listener, listen
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.common_messages import LANDMARKS, SUCCESSION
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.security import tls
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.types import PeerId, Role


class Loopback:
    """Listeners on 127.0.0.1, with and without TLS."""

    def __init__(self, directory: Path) -> None:
        self.facts = NodeFacts()
        certificate, key = load_or_create_certificate(directory, "localhost", clock=self.facts.clock)
        self.context = tls.listener_context(certificate, key)
        self.fingerprint = tls.certificate_fingerprint(certificate)
        self._listeners: list[Listener] = []

    def _handler(self, identity: Identity, role: Role) -> Callable[[Transport], Awaitable[None]]:
        codec = AT_COORDINATOR_FROM_NODE if role is Role.COORDINATOR else AT_TARGET_FROM_NODE

        async def handle(transport: Transport) -> None:
            link = await accept(
                transport,
                codec,
                identity=identity,
                role=role,
                roles=frozenset({Role.NODE}),
                clock=self.facts.clock,
                features=(LANDMARKS, SUCCESSION, "trees"),
            )
            try:
                await link.receive()
            except (LinkClosed, PeerRefused):
                await link.close()

        return handle

    async def listen(self, identity: Identity, role: Role, *, secure: bool = False, path: str | None = None) -> str:
        """The address, without a path."""
        path = path or (COORDINATOR_PATH if role is Role.COORDINATOR else DRAFT_PATH)
        context = self.context if secure else None
        listener = await listen("127.0.0.1", 0, self._handler(identity, role), tls=context, path=path)
        self._listeners.append(listener)
        return f"{'wss' if secure else 'ws'}://127.0.0.1:{listener.port}"

    def membership(self, url: str, certificate: str | None = None) -> Membership:
        return Membership(url=url, coordinator=self.facts.coordinator.public_key, certificate=certificate)

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()


@pytest.fixture
async def loopback(tmp_path: Path) -> AsyncIterator[Loopback]:
    loopback = Loopback(tmp_path)
    async with asyncio.timeout(20):
        yield loopback
        await loopback.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_a_coordinator_is_reached_under_its_path_and_key(loopback: Loopback, secure: bool) -> None:
    facts = loopback.facts
    url = await loopback.listen(facts.coordinator, Role.COORDINATOR, secure=secure)
    home = loopback.membership(url + "/", loopback.fingerprint if secure else None)
    link = await Dialler(facts.node, home, facts.clock).coordinator()
    assert (link.peer, link.role) == (facts.coordinator.peer_id, Role.COORDINATOR)
    assert link.features == {LANDMARKS, SUCCESSION}
    await link.close()


async def test_another_key_or_certificate_at_the_address_is_refused(loopback: Loopback) -> None:
    facts = loopback.facts
    impostor = await loopback.listen(Identity.generate(), Role.COORDINATOR, secure=True)
    for certificate in (loopback.fingerprint, "0" * 64):
        with pytest.raises(RemoteProtocolError) as refusal:
            await Dialler(facts.node, loopback.membership(impostor, certificate), facts.clock).coordinator()
        assert refusal.value.code == CloseCode.HANDSHAKE_FAILED


async def test_a_peer_of_another_role_is_refused_even_with_the_right_key(loopback: Loopback) -> None:
    facts = loopback.facts
    url = await loopback.listen(facts.coordinator, Role.TARGET, path=COORDINATOR_PATH)
    with pytest.raises(RemoteProtocolError, match="the peer is a target, not a coordinator"):
        await Dialler(facts.node, loopback.membership(url), facts.clock).coordinator()


async def test_a_target_is_reached_at_the_address_of_its_lease(loopback: Loopback) -> None:
    facts = loopback.facts
    address = await loopback.listen(facts.target, Role.TARGET, secure=True) + DRAFT_PATH
    lease = facts.lease(addresses=(address,), certificate=loopback.fingerprint)
    link = await Dialler(facts.node, loopback.membership("ws://127.0.0.1:1"), facts.clock).target(lease, address)
    assert (link.peer, link.role) == (facts.target.peer_id, Role.TARGET)
    await link.close()


async def test_the_way_to_a_target_is_timed_without_a_lease(loopback: Loopback) -> None:
    facts = loopback.facts
    address = await loopback.listen(facts.target, Role.TARGET, secure=True) + DRAFT_PATH
    dialler = Dialler(facts.node, loopback.membership("ws://127.0.0.1:1"), facts.clock)
    assert await dialler.time(Landmark(facts.target.peer_id, address)) == 0.0, "by a clock that stands"


async def test_nobody_there(loopback: Loopback) -> None:
    with pytest.raises(Unreachable):
        await Dialler(loopback.facts.node, loopback.membership("ws://127.0.0.1:1"), loopback.facts.clock).coordinator()


def test_it_is_known_whether_the_coordinator_was_reached_on_this_machine(loopback: Loopback) -> None:
    for url, here in (("ws://127.0.0.1:1", True), ("wss://[::1]:1", True), ("wss://gpu.example/wan", False)):
        dialler = Dialler(loopback.facts.node, loopback.membership(url, "0" * 64), loopback.facts.clock)
        assert dialler.loopback is here


class Hints:
    """What the local network tells, in the order it is heard."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls
        self.asked: list[PeerId] = []

    async def __call__(self, peer: PeerId, but: Collection[str]) -> str | None:
        self.asked.append(peer)
        return next((url for url in self.urls if url not in but), None)


NO_ADDRESSES = [
    "wss://x:99999",
    "wss://[",
    "wss://a..b",
    "wss://" + "a" * 100,
    "wss://user@host",
    "wss://h:1#f",
    "wss://",
]


async def test_a_coordinator_that_moved_is_found_by_its_hint_and_proved_by_its_keys(loopback: Loopback) -> None:
    facts = loopback.facts
    url = await loopback.listen(facts.coordinator, Role.COORDINATOR, secure=True)
    gone = loopback.membership("wss://127.0.0.1:1", loopback.fingerprint)
    hints = Hints(url)
    dialler = Dialler(facts.node, gone, facts.clock, hints)
    link = await dialler.coordinator()
    assert hints.asked == [facts.coordinator.peer_id]
    assert (dialler.url, dialler.membership) == (url, gone)
    await link.close()


async def test_what_was_found_decides_whether_the_coordinator_is_on_this_machine(loopback: Loopback) -> None:
    facts = loopback.facts
    url = await loopback.listen(facts.coordinator, Role.COORDINATOR, secure=True)
    gone = loopback.membership("wss://nowhere.invalid:1", loopback.fingerprint)
    dialler = Dialler(facts.node, gone, facts.clock, Hints(url))
    assert not dialler.loopback
    await (await dialler.coordinator()).close()
    assert dialler.loopback


@pytest.mark.parametrize("certificate", ["", "0" * 64])
async def test_a_hint_that_leads_to_somebody_else_changes_nothing(loopback: Loopback, certificate: str) -> None:
    """Another key or another certificate there is as good as nobody, also for a node that was never taken in."""
    facts = loopback.facts
    url = await loopback.listen(Identity.generate(), Role.COORDINATOR, secure=True)
    gone = loopback.membership("wss://127.0.0.1:1", certificate or loopback.fingerprint)
    dialler = Dialler(facts.node, gone, facts.clock, Hints(url))
    with pytest.raises(Unreachable, match="127.0.0.1:1/"):
        await dialler.coordinator()
    assert dialler.membership == gone


@pytest.mark.parametrize("hint", NO_ADDRESSES)
async def test_a_hint_that_is_no_address_changes_nothing(loopback: Loopback, hint: str) -> None:
    gone = loopback.membership("wss://127.0.0.1:1", "0" * 64)
    dialler = Dialler(loopback.facts.node, gone, loopback.facts.clock, Hints(hint))
    with pytest.raises(Unreachable, match="127.0.0.1:1/"):
        await dialler.coordinator()
    assert dialler.membership == gone


async def test_the_first_hint_does_not_hide_the_others(loopback: Loopback) -> None:
    facts = loopback.facts
    foreign = await loopback.listen(Identity.generate(), Role.COORDINATOR, secure=True)
    url = await loopback.listen(facts.coordinator, Role.COORDINATOR, secure=True)
    gone = loopback.membership("wss://127.0.0.1:1", loopback.fingerprint)
    hints = Hints("wss://a..b", "ws://127.0.0.1:9", foreign, url)
    link = await Dialler(facts.node, gone, facts.clock, hints).coordinator()
    assert link.peer == facts.coordinator.peer_id
    await link.close()


async def test_only_so_many_hints_are_followed_at_a_time(loopback: Loopback) -> None:
    facts = loopback.facts
    hints = Hints(*(f"wss://a..{number}" for number in range(100)))
    gone = loopback.membership("wss://127.0.0.1:1", "0" * 64)
    with pytest.raises(Unreachable):
        await Dialler(facts.node, gone, facts.clock, hints).coordinator()
    assert len(hints.asked) == MAX_HINTS


@pytest.mark.parametrize(
    ("hints", "certificate"), [([], "0" * 64), (["ws://127.0.0.1:9"], "0" * 64), (["wss://127.0.0.1:9"], None)]
)
async def test_hints_that_prove_nothing_are_not_dialled(
    loopback: Loopback, hints: list[str], certificate: str | None
) -> None:
    home = loopback.membership("ws://127.0.0.1:1", certificate)
    with pytest.raises(Unreachable, match="127.0.0.1:1/"):
        await Dialler(loopback.facts.node, home, loopback.facts.clock, Hints(*hints)).coordinator()


async def test_the_local_network_is_asked_for_one_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = Identity.generate().peer_id, Identity.generate().peer_id
    heard = [Beacon(other, None, "wss://other:1"), Beacon(ours, None, "wss://ours:1")]

    async def browse(seconds: float, *, until: PeerId, but: Collection[str]) -> list[Beacon]:
        return [beacon for beacon in heard if beacon.url not in but]

    monkeypatch.setattr("wanspec_p2p.links.discovery.browse", browse)
    assert await find_on_local_network(ours, ()) == "wss://ours:1"
    assert await find_on_local_network(ours, {"wss://ours:1"}) is None


async def test_a_network_without_multicast_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def browse(seconds: float, *, until: PeerId, but: Collection[str]) -> list[Beacon]:
        raise ConfigError("no multicast here")

    monkeypatch.setattr("wanspec_p2p.links.discovery.browse", browse)
    assert await find_on_local_network(Identity.generate().peer_id, ()) is None
