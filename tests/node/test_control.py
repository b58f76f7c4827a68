from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import NoReturn

import pytest

from node.control import MAX_PROBES, ControlLink, DialCoordinator
from node.coordinator_link import CoordinatorLink
from node.dialling import COORDINATOR_PATH, Dialler
from node.draft_links import DraftLinks
from node.drafting import DraftingEngine
from node.landmarks import LandmarkTimer
from node.lease_checks import Held
from node.limits import LendingLimits
from tests.support.fake_node_coordinator import FakeNodeCoordinator, expect
from tests.support.node_facts import NodeFacts, drafter_model
from tests.support.scripted_models import ScriptedModel
from tests.support.waits import Waits
from wanspec_p2p.errors import CloseCode, ConfigError, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.links.websocket import listen
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks, LeaseOffer, ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, LeaseAnswer, ProbeResult, Timed
from wanspec_p2p.security.leases import check
from wanspec_p2p.types import PeerId


class Links(DraftLinks):
    """Keeps what it is told and dials nobody."""

    def __init__(self) -> None:
        super().__init__(lambda lease: pytest.fail("nobody is dialled here"), lambda jti, reason: None)
        self.told: list[tuple[str, str]] = []

    def take(self, lease: Held) -> None:
        self.told.append(("take", lease.claims.jti))

    def drop(self, lease: Held, reason: str) -> None:
        self.told.append(("drop", lease.claims.jti))


class Bench:
    """A control link, and the coordinator at its far end. Heartbeats and back-offs wait on the same `waits`."""

    def __init__(
        self, *, enrolled: bool = False, dial: DialCoordinator | None = None, joined: ConfigError | None = None
    ) -> None:
        self.model = ScriptedModel(1)
        self.facts = NodeFacts(model=drafter_model(self.model.info))
        self.coordinator = FakeNodeCoordinator(self.facts.coordinator, self.facts.node, self.facts.clock)
        self.engine = DraftingEngine(self.model, clock=self.facts.clock)
        self.links = Links()
        self.joined: list[str] = []
        self._failure = joined
        self.waits = Waits()
        claims = partial(
            check,
            coordinator=self.facts.coordinator.public_key,
            clock=self.facts.clock,
            node=self.facts.node.peer_id,
        )
        limits = LendingLimits(slots=2, max_prefix=64)
        machine = CoordinatorLink(
            self.facts.registration(),
            secret="s3cret",
            enrolled=enrolled,
            check=claims,
            limits=limits,
            loopback=lambda: True,
        )
        self.control = ControlLink(
            machine,
            self.engine,
            self.links,
            LandmarkTimer(self._time, clock=self.facts.clock, rng=random.Random(1), sleep=self.waits),
            dial=dial or self.coordinator.dial,
            joined=self._joined,
            backoff=Backoff(random.Random(1)),
            clock=self.facts.clock,
            sleep=self.waits,
        )

    def _joined(self, pool: str) -> None:
        if self._failure is not None:
            raise self._failure
        self.joined.append(pool)

    async def _time(self, landmark: Landmark) -> float:
        return 0.02

    def start(self) -> None:
        self._drafting = asyncio.create_task(self.engine.run())
        self.running = asyncio.create_task(self.control.run())

    async def result(self) -> None:
        async with asyncio.timeout(5):
            await self.running

    async def close(self) -> None:
        self.running.cancel()
        self._drafting.cancel()
        await asyncio.gather(self.running, self._drafting, return_exceptions=True)
        await self.coordinator.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.start()
    yield bench
    await bench.close()


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_first_contact_shows_the_secret(bench: Bench) -> None:
    _, registration = await bench.coordinator.registered()
    assert registration.join_secret == "s3cret"


async def test_heartbeats_come_at_the_pace_of_registered(bench: Bench) -> None:
    link = await bench.coordinator.admitted(heartbeat=5.0)
    await settle()
    assert bench.joined == ["default"]
    await bench.waits.end()  # the wait that began before the pace was known
    assert (await expect(link, Heartbeat)).sessions == 0
    await bench.waits.begun()
    assert bench.waits.asked == [2.0, 5.0]


async def test_a_lease_is_taken_answered_and_named(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(LeaseOffer(jti="lease-1", lease=bench.facts.lease().text))
    assert await expect(link, LeaseAnswer) == LeaseAnswer(jti="lease-1", accepted=True)
    assert bench.links.told == [("take", "lease-1")]
    await bench.waits.end()
    assert (await expect(link, Heartbeat)).leases == ("lease-1",)
    bench.control.lease_lost("lease-1", "not you")
    assert await expect(link, LeaseAnswer) == LeaseAnswer(jti="lease-1", accepted=False, reason="not you")
    assert bench.links.told[-1] == ("drop", "lease-1")


async def test_a_broken_link_is_dialled_again_without_the_secret(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await settle()
    await link.close()
    await settle()
    expected = Backoff(random.Random(1)).next()
    assert bench.waits.asked == [2.0, expected]
    await bench.waits.end()
    _, registration = await bench.coordinator.registered()
    assert registration.join_secret == ""


async def test_waits_grow_while_nobody_answers_and_start_anew_after_joining() -> None:
    bench = Bench()
    bench.coordinator.failures += [Unreachable("nobody"), LinkClosed("broke"), Unreachable("nobody")]
    bench.start()
    reference = Backoff(random.Random(1))
    expected = [reference.next() for _ in range(3)]
    for delay in expected:
        await settle()
        assert delay in bench.waits.asked
        await bench.waits.end()
    link = await bench.coordinator.admitted()
    await settle()
    await link.close()
    await settle()
    reference.reset()
    assert reference.next() in bench.waits.asked
    await bench.close()


@pytest.mark.parametrize("code", [1001, CloseCode.TRY_AGAIN_LATER])
async def test_the_coordinator_says_when_to_come_back(bench: Bench, code: int) -> None:
    link = await bench.coordinator.admitted()
    await settle()
    await link.close(code, "restarting", retry_after=20.0)
    await settle()
    assert bench.waits.asked[-1] == Backoff(random.Random(1)).next(20.0)
    assert bench.waits.asked[-1] >= 20.0


@pytest.mark.parametrize("code", [CloseCode.JOIN_REFUSED, CloseCode.TOKENIZER_MISMATCH, CloseCode.REPLACED])
async def test_a_final_refusal_is_raised_in_the_coordinators_words(bench: Bench, code: CloseCode) -> None:
    link, _ = await bench.coordinator.registered()
    await link.close(code, "this token has been used")
    with pytest.raises(PeerRefused, match="this token has been used") as refusal:
        await bench.result()
    assert refusal.value.code == code


async def test_an_impostor_on_first_contact_is_final() -> None:
    bench = Bench()
    bench.coordinator.failures.append(RemoteProtocolError("somebody else", CloseCode.HANDSHAKE_FAILED))
    bench.start()
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        await bench.result()
    await bench.close()


async def test_a_member_that_finds_an_impostor_tries_again() -> None:
    bench = Bench(enrolled=True)
    bench.coordinator.failures.append(RemoteProtocolError("somebody else", CloseCode.HANDSHAKE_FAILED))
    bench.start()
    await settle()
    await bench.waits.end()
    _, registration = await bench.coordinator.registered()
    assert registration.join_secret == ""
    await bench.close()


async def test_a_message_out_of_turn_closes_the_link_with_the_reason() -> None:
    bench = Bench(enrolled=True)
    bench.start()
    link, _ = await bench.coordinator.registered()
    await link.send(LeaseOffer(jti="x", lease="y"))
    with pytest.raises(PeerRefused, match="LeaseOffer is not expected while registering"):
        async with asyncio.timeout(5):
            await link.receive()
    await bench.close()


async def test_a_probe_is_answered(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(ProbeRequest(probe="p", model="scripted", prefix=(1, 2), count=2))
    result = await expect(link, ProbeResult)
    assert result.tokens[0] == int(bench.model.row((1, 2)).argmax())
    assert len(result.tokens) == 2


async def test_too_many_probes_are_the_coordinators_fault(bench: Bench) -> None:
    bench.engine.stop()  # nothing is answered
    link = await bench.coordinator.admitted()
    for number in range(MAX_PROBES + 1):
        await link.send(ProbeRequest(probe=str(number), model="scripted", prefix=(1,), count=1))
    with pytest.raises(PeerRefused, match=f"more than {MAX_PROBES} probes"):
        async with asyncio.timeout(5):
            await link.receive()


def landmarks(*names: str) -> Landmarks:
    return Landmarks(tuple(Landmark(PeerId(name * 32), "wss://gpu.example:1/wanspec/draft") for name in names))


async def test_landmarks_are_timed(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(landmarks("a", "b"))
    await settle()
    await bench.waits.end()
    await expect(link, Heartbeat)
    assert [await expect(link, Timed) for _ in range(2)] == [Timed(PeerId(name * 32), 0.02) for name in "ab"]


async def test_other_landmarks_take_the_place_of_those_that_wait(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(landmarks("a"))
    await link.send(landmarks("b"))
    await settle()
    await bench.waits.end()
    await expect(link, Heartbeat)
    assert (await expect(link, Timed)).target == PeerId("b" * 32)


async def test_landmarks_of_a_link_that_broke_are_not_timed(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(landmarks("a"))
    await settle()
    await link.close()
    await settle()
    await bench.waits.end()
    again = await bench.coordinator.admitted()
    await settle()
    await bench.waits.end()
    await expect(again, Heartbeat)
    bench.control.drain("bye")
    await expect(again, Drain)


async def test_draining_says_so_drops_leases_and_ends(bench: Bench) -> None:
    link = await bench.coordinator.admitted()
    await link.send(LeaseOffer(jti="lease-1", lease=bench.facts.lease().text))
    await expect(link, LeaseAnswer)
    bench.control.drain("bye")
    assert await expect(link, Drain) == Drain(reason="bye")
    with pytest.raises(LinkClosed, match="bye"):
        async with asyncio.timeout(5):
            await link.receive()
    await bench.result()
    assert bench.links.told == [("take", "lease-1"), ("drop", "lease-1")]


async def test_draining_does_not_wait_for_a_back_off() -> None:
    bench = Bench()
    bench.coordinator.failures.append(Unreachable("nobody"))
    bench.start()
    await settle()
    bench.control.drain("bye")
    await bench.result()
    assert bench.coordinator.dialled == 1
    await bench.close()


async def test_draining_does_not_wait_for_a_dial_that_hangs() -> None:
    hung = asyncio.Event()

    async def hang() -> NoReturn:
        hung.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench = Bench(dial=hang)
    bench.start()
    await hung.wait()
    bench.control.drain("bye")
    await bench.result()
    await bench.close()


async def test_what_is_wrong_with_the_set_up_ends_it_and_hangs_up() -> None:
    bench = Bench(joined=ConfigError("coordinator.json cannot be written"))
    bench.start()
    link = await bench.coordinator.admitted()
    with pytest.raises(ConfigError, match="cannot be written"):
        await bench.result()
    with pytest.raises(LinkClosed):
        async with asyncio.timeout(5):
            await link.receive()
    await bench.close()


@pytest.mark.parametrize("code", [CloseCode.NOT_ENROLLED, CloseCode.REPLACED, CloseCode.VERSION_MISMATCH])
async def test_whoever_has_taken_the_coordinators_port_ends_no_member(code: CloseCode) -> None:
    """Without TLS anybody on the machine may, while the coordinator restarts."""

    dials = 0

    async def close(transport: Transport) -> None:
        nonlocal dials
        dials += 1
        await transport.close(code, "go away")

    listener = await listen("127.0.0.1", 0, close, tls=None, path=COORDINATOR_PATH)
    facts = NodeFacts()
    membership = Membership(f"ws://127.0.0.1:{listener.port}", facts.coordinator.public_key, None)
    bench = Bench(enrolled=True, dial=Dialler(facts.node, membership, facts.clock).coordinator)
    bench.start()
    async with asyncio.timeout(20):
        while dials < 3 and not bench.running.done():
            await bench.waits.end()
            await asyncio.sleep(0.01)
    assert not bench.running.done()
    await bench.close()
    await listener.close()
