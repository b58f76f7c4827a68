from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import CloseCode, LinkClosed, LocalProtocolError, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.memory import MemoryTransport, Path, memory_transports
from wanspec_p2p.links.peer import PeerLink, accept, connect
from wanspec_p2p.links.pulse import STRAY_PONGS
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import (
    AT_COORDINATOR_FROM_NODE,
    AT_NODE_FROM_COORDINATOR,
    AT_NODE_FROM_TARGET,
    AT_TARGET_FROM_NODE,
)
from wanspec_p2p.protocol.common_messages import Goodbye, Hello, Ping, Pong, Registered, Welcome
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.handshake import Begin, Complete, Dialler, Send
from wanspec_p2p.protocol.node_to_coordinator import Drain, NodeMessage
from wanspec_p2p.protocol.node_to_target import Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import Close, TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

NODE, TARGET, STRANGER = (Identity.generate() for _ in range(3))
CLOCK = LoopClock()
BOTH = frozenset({Role.NODE})


def _connecting(transport: MemoryTransport, **changes: Any) -> Any:
    given: dict[str, Any] = {"identity": NODE, "role": Role.NODE, "expect": TARGET.peer_id, "clock": CLOCK}
    return connect(transport, AT_NODE_FROM_TARGET, **(given | changes))


def _accepting(transport: MemoryTransport, **changes: Any) -> Any:
    given: dict[str, Any] = {"identity": TARGET, "role": Role.TARGET, "roles": BOTH, "clock": CLOCK}
    return accept(transport, AT_TARGET_FROM_NODE, **(given | changes))


async def _pair(
    there: Path | None = None, back: Path | None = None
) -> tuple[PeerLink[TargetToNode], PeerLink[NodeToTarget], MemoryTransport, MemoryTransport]:
    a, b = memory_transports(there, back)
    node, target = await asyncio.gather(_connecting(a), _accepting(b))
    return node, target, a, b


@contextlib.asynccontextmanager
async def _links(
    there: Path | None = None, back: Path | None = None
) -> AsyncIterator[tuple[PeerLink[TargetToNode], PeerLink[NodeToTarget], MemoryTransport, MemoryTransport]]:
    """A node's and a target's end of one draft link, closed at the end."""
    pair = await _pair(there, back)
    try:
        yield pair
    finally:
        await pair[0].close()
        await pair[1].close()


class RawNode:
    """A node that is only as honest as the test wants: past the handshake it sends whatever it is given."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport

    async def shake_hands(self) -> None:
        machine = Dialler(
            NODE, Role.NODE, expect=TARGET.peer_id, nonce=b"n" * 32, channel_binding=self.transport.channel_binding
        )
        instructions = machine.handle(Begin())
        while not any(isinstance(instruction, Complete) for instruction in instructions):
            for instruction in instructions:
                assert isinstance(instruction, Send)
                await self.send(instruction.message)
            message = AT_NODE_FROM_TARGET.decode(await self.transport.receive())
            instructions = machine.handle(message)

    async def send(self, message: Any) -> None:
        await self.transport.send(AT_TARGET_FROM_NODE.encode(message))

    async def receive(self) -> Any:
        return AT_NODE_FROM_TARGET.decode(await self.transport.receive())


async def _raw_pair(there: Path | None = None, back: Path | None = None) -> tuple[RawNode, PeerLink[NodeToTarget]]:
    a, b = memory_transports(there, back)
    raw = RawNode(a)
    _, target = await asyncio.gather(raw.shake_hands(), _accepting(b))
    return raw, target


def _draft(number: int) -> Draft:
    return Draft(session=0, base_len=number, base_hash=bytes(8), tokens=(number,))


# Establishing -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_both_ends_know_each_other() -> None:
    a, b = memory_transports(channel_binding=b"certificate")
    node, target = await asyncio.gather(
        _connecting(a, features=("x", "y"), software="test 1"), _accepting(b, features=("y", "z"))
    )
    assert (node.peer, node.role, node.public_key) == (TARGET.peer_id, Role.TARGET, TARGET.public_key)
    assert (target.peer, target.role, target.public_key) == (NODE.peer_id, Role.NODE, NODE.public_key)
    assert node.features == target.features == frozenset({"y"})
    assert target.software == "test 1"
    await node.close()
    await target.close()


@in_virtual_time
async def test_a_link_is_a_link_of_the_declared_types() -> None:
    a, b = memory_transports()
    coordinator = Identity.generate()
    shared: dict[str, Any] = {"clock": CLOCK}
    dialled, accepted = await asyncio.gather(
        connect(a, AT_NODE_FROM_COORDINATOR, identity=NODE, role=Role.NODE, expect=coordinator.peer_id, **shared),
        accept(b, AT_COORDINATOR_FROM_NODE, identity=coordinator, role=Role.COORDINATOR, roles=BOTH, **shared),
    )
    at_node: Link[NodeMessage, CoordinatorToNode] = dialled
    at_coordinator: Link[CoordinatorToNode, NodeMessage] = accepted
    await at_node.send(Drain(reason="tired"))
    assert await at_coordinator.receive() == Drain(reason="tired")
    await at_coordinator.send(Registered(pool="default", heartbeat=2.0))
    assert await at_node.receive() == Registered(pool="default", heartbeat=2.0)
    await at_node.close()
    await at_coordinator.close()


async def _outcomes(dialling: Any, accepting: Any) -> tuple[Any, Any]:
    dialled, accepted = await asyncio.gather(dialling, accepting, return_exceptions=True)
    return dialled, accepted


@in_virtual_time
async def test_the_wrong_listener_is_left_with_a_reason() -> None:
    a, b = memory_transports()
    dialled, accepted = await _outcomes(_connecting(a, expect=STRANGER.peer_id), _accepting(b))
    assert isinstance(dialled, RemoteProtocolError) and dialled.code is CloseCode.HANDSHAKE_FAILED
    assert isinstance(accepted, PeerRefused) and accepted.code == CloseCode.HANDSHAKE_FAILED
    assert "another peer than expected" in accepted.reason


@in_virtual_time
async def test_a_role_that_is_not_admitted_learns_why() -> None:
    a, b = memory_transports()
    dialled, accepted = await _outcomes(_connecting(a, role=Role.TARGET), _accepting(b))
    assert isinstance(dialled, PeerRefused)
    assert (dialled.code, dialled.reason) == (CloseCode.HANDSHAKE_FAILED, "a target is not admitted here")
    assert isinstance(accepted, RemoteProtocolError)


@in_virtual_time
async def test_another_version_learns_both_versions() -> None:
    a, b = memory_transports()
    accepting = asyncio.create_task(_accepting(b))
    hello = Hello(version=9, role=Role.NODE, key=NODE.public_key, nonce=bytes(32))
    await a.send(msgspec.json.encode(hello).decode().replace('"features"', '"capabilities"'))
    with pytest.raises(PeerRefused, match="speaks protocol version 1, the peer version 9") as caught:
        await a.receive()
    assert caught.value.code == CloseCode.VERSION_MISMATCH
    with pytest.raises(RemoteProtocolError):
        await accepting


@pytest.mark.parametrize("code", [CloseCode.NOT_ENROLLED, CloseCode.REPLACED, CloseCode.LEASE_REFUSED])
def test_a_listener_that_has_proved_nothing_has_only_closed(code: CloseCode) -> None:
    @in_virtual_time
    async def run() -> None:
        a, b = memory_transports()
        dialling = asyncio.create_task(_connecting(a))
        await b.receive()
        await b.close(code, "go away")
        outcome = (await asyncio.gather(dialling, return_exceptions=True))[0]
        assert isinstance(outcome, LinkClosed)
        assert f"code {code:d}: go away" in str(outcome)

    run()


@pytest.mark.parametrize("side", [_connecting, _accepting])
def test_a_silent_peer_does_not_hold_the_handshake(side: Any) -> None:
    @in_virtual_time
    async def run() -> None:
        a, b = memory_transports()
        with pytest.raises(LinkClosed, match="the handshake took longer than 10 s"):
            await side(a)
        assert asyncio.get_running_loop().time() == pytest.approx(limits.HANDSHAKE_SECONDS)
        with contextlib.suppress(LinkClosed, PeerRefused):
            while True:
                await b.receive()

    run()


@pytest.mark.parametrize("junk", ["", "{}", b"\x00", '{"type":"ping","id":1,"at":1}', "x" * 2_000_000])
def test_junk_instead_of_a_hello_is_answered_with_a_reason(junk: str | bytes) -> None:
    @in_virtual_time
    async def run() -> None:
        a, b = memory_transports()
        await a.send(junk)
        with pytest.raises(RemoteProtocolError) as local:
            await _accepting(b)
        with pytest.raises(PeerRefused) as remote:
            await a.receive()
        assert remote.value.code == local.value.code
        assert remote.value.reason

    run()


@in_virtual_time
async def test_a_cancelled_handshake_closes_the_transport() -> None:
    a, b = memory_transports()
    dialling = asyncio.create_task(_connecting(a))
    await asyncio.sleep(1)
    dialling.cancel()
    await asyncio.wait([dialling])
    assert dialling.cancelled()
    await b.receive()
    with pytest.raises(LinkClosed):
        await b.receive()


@in_virtual_time
async def test_a_transport_that_breaks_in_the_handshake() -> None:
    a, b = memory_transports(Path(delay=1.0), Path(delay=1.0))
    both = asyncio.gather(_connecting(a), _accepting(b), return_exceptions=True)
    await asyncio.sleep(1.5)
    a.disconnect()
    assert [type(outcome) for outcome in await both] == [LinkClosed, LinkClosed]


# Messages -----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_messages_arrive_in_order_and_pings_do_not_show() -> None:
    async with _links(Path(delay=0.1, jitter=0.05)) as (node, target, _, _):
        for i in range(40):
            await node.send(_draft(i))
            await asyncio.sleep(0.5)
        assert [await target.receive() for _ in range(40)] == [_draft(i) for i in range(40)]


@in_virtual_time
async def test_receiving_may_be_cancelled_without_loss() -> None:
    async with _links() as (node, target, _, _):
        received = []
        for i in range(20):
            waiting = asyncio.create_task(target.receive())
            await asyncio.sleep(0)
            await node.send(_draft(i))
            for _ in range(i % 5):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                received.append(waiting.result())
        while len(received) < 20:
            received.append(await target.receive())
        assert received == [_draft(i) for i in range(20)]


@in_virtual_time
async def test_our_own_mistake_does_not_cost_the_link() -> None:
    async with _links() as (node, target, _, _):
        with pytest.raises(LocalProtocolError):
            await node.send(Draft(session=0, base_len=0, base_hash=bytes(8), tokens=(1,), parents=(0,)))
        await node.send(_draft(1))
        assert await target.receive() == _draft(1)


@in_virtual_time
async def test_both_ends_count_the_same() -> None:
    async with _links() as (node, target, _, _):
        before = node.stats.bytes_sent
        await node.send(_draft(1))
        await target.receive()
        assert node.stats.bytes_sent - before == len(AT_TARGET_FROM_NODE.encode(_draft(1)))
        await target.send(Close(session=1, reason="größer"))
        await node.receive()
        await asyncio.sleep(1)
        assert (node.stats.frames_sent, node.stats.bytes_sent) == (
            target.stats.frames_received,
            target.stats.bytes_received,
        )
        assert (target.stats.frames_sent, target.stats.bytes_sent) == (
            node.stats.frames_received,
            node.stats.bytes_received,
        )


# Liveness -----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_round_trip_time_is_known_at_once_and_smoothed() -> None:
    async with _links(Path(delay=0.03), Path(delay=0.07)) as (node, target, a, _):
        assert node.rtt is None
        assert node.jitter is None
        await asyncio.sleep(0.5)
        assert node.rtt == pytest.approx(0.1)
        assert target.rtt == pytest.approx(0.1)
        a.path.delay = 0.83
        await asyncio.sleep(limits.PING_SECONDS + 0.5)
        assert node.rtt == pytest.approx(0.1 + (0.9 - 0.1) / 8)  # RFC 6298: one eighth of the difference
        assert node.jitter == pytest.approx(0.05 + (0.8 - 0.05) / 4)


@in_virtual_time
async def test_a_ping_that_is_asked_for_goes_out_at_once_and_is_answered_though_nobody_receives() -> None:
    async with _links(Path(delay=0.05), Path(delay=0.05)) as (node, target, _, _):
        await asyncio.sleep(0.5)
        before, others = target.stats.frames_received, node.stats.frames_received
        for _ in range(3):
            target.ping()
            await asyncio.sleep(0.2)
        assert target.stats.frames_received == before + 3
        assert node.stats.frames_received == others + 3
        await asyncio.sleep(limits.PING_SECONDS + 1.0)
        assert target.stats.frames_received >= before + 4, "the usual ones go on"


@in_virtual_time
async def test_a_link_says_whether_it_is_read() -> None:
    async with _links(Path(), Path()) as (node, target, _, _):
        assert target.reading
        for number in range(limits.MAX_QUEUE_FRAMES + 1):
            await node.send(_draft(number))
        await asyncio.sleep(1.0)
        assert not target.reading
        await target.receive()
        await target.receive()
        assert target.reading


@in_virtual_time
async def test_a_steady_link_shows_its_jitter() -> None:
    async with _links(Path(delay=0.05, jitter=0.02), Path(delay=0.05)) as (_, target, _, _):
        await asyncio.sleep(600)
        assert target.rtt == pytest.approx(0.11, abs=0.01)
        assert target.jitter == pytest.approx(0.005, abs=0.004)  # mean distance from the middle of 0…20 ms


@in_virtual_time
async def test_a_quiet_link_lives_though_nobody_receives() -> None:
    async with _links(Path(delay=0.2), Path(delay=0.2)) as (node, target, _, _):
        await asyncio.sleep(600)
        await node.send(_draft(1))
        assert await target.receive() == _draft(1)
        assert target.rtt == pytest.approx(0.4)


@in_virtual_time
async def test_a_slow_reader_makes_the_sender_wait_and_loses_nothing() -> None:
    count = 3 * limits.MAX_QUEUE_FRAMES
    async with _links(Path(capacity=16), Path(capacity=16)) as (node, target, _, _):

        async def send_all() -> None:
            for i in range(count):
                await node.send(_draft(i))

        sending = asyncio.create_task(send_all())
        await asyncio.sleep(60)  # several times SILENCE_SECONDS
        assert not sending.done()
        assert node.stats.frames_sent < limits.MAX_QUEUE_FRAMES + 32
        assert [await target.receive() for _ in range(count)] == [_draft(i) for i in range(count)]
        await sending
        await asyncio.sleep(limits.PING_SECONDS * 2)
        assert target.rtt == pytest.approx(0.0, abs=1e-6)  # our own slowness is not the network's


@in_virtual_time
async def test_two_ends_that_flood_each_other_get_on_when_one_reads() -> None:
    """The reader answers no ping itself, so it never waits for room while the peer waits for it."""
    async with _links(Path(capacity=4), Path(capacity=4)) as (node, target, _, _):
        count = 300

        async def send_drafts() -> None:
            for i in range(count):
                await node.send(_draft(i))

        async def send_closes() -> None:
            for i in range(count):
                await target.send(Close(session=i))

        sending = [asyncio.create_task(send_drafts()), asyncio.create_task(send_closes())]
        await asyncio.sleep(60)
        assert [(await node.receive()).session for _ in range(count)] == list(range(count))
        assert [await target.receive() for _ in range(count)] == [_draft(i) for i in range(count)]
        await asyncio.gather(*sending)


@in_virtual_time
async def test_a_stall_shorter_than_the_silence_is_survived() -> None:
    async with _links() as (node, target, a, _):
        await asyncio.sleep(5)
        a.partition()
        await asyncio.sleep(limits.SILENCE_SECONDS - limits.PING_SECONDS - 0.1)
        a.heal()
        await node.send(_draft(1))
        assert await target.receive() == _draft(1)


@in_virtual_time
async def test_a_silent_peer_is_given_up_on_both_sides() -> None:
    node, target, a, _ = await _pair()
    await asyncio.sleep(5)
    a.partition()
    start = asyncio.get_running_loop().time()
    for link in (node, target):
        with pytest.raises(LinkClosed, match="the peer was silent for 10 s"):
            await link.receive()
    assert asyncio.get_running_loop().time() - start <= limits.SILENCE_SECONDS + limits.PING_SECONDS
    with pytest.raises(LinkClosed, match="silent"):
        await node.send(_draft(1))


@in_virtual_time
async def test_a_broken_connection_ends_the_link_and_its_tasks() -> None:
    node, target, a, _ = await _pair()
    await node.send(_draft(1))
    await asyncio.sleep(1)
    a.disconnect()
    assert await target.receive() == _draft(1)  # what had come before is not lost
    for link in (node, target):
        with pytest.raises(LinkClosed, match="broke"):
            await link.receive()


@in_virtual_time
async def test_a_flood_of_pings_ends_the_link_and_costs_one_pong_at_a_time_until_then() -> None:
    raw, target = await _raw_pair(back=Path(capacity=8))
    before = target.stats.frames_received
    with pytest.raises(LinkClosed):
        for i in range(5000):
            await raw.send(Ping(id=i, at=1.0))
    with pytest.raises(RemoteProtocolError, match="more Pings than the protocol allows") as caught:
        await target.receive()
    assert caught.value.code is CloseCode.POLICY_VIOLATION
    assert target.stats.frames_received == before + limits.PINGS_AT_ONCE + 1
    assert target.stats.frames_sent < 50
    await target.close()


@in_virtual_time
async def test_pings_as_often_as_a_coordinator_sends_them_are_no_flood() -> None:
    async with _links() as (node, target, _, _):
        for _ in range(2 * limits.PINGS_AT_ONCE):
            await asyncio.sleep(0.5)
            node.ping()
        await node.send(_draft(7))
        assert await target.receive() == _draft(7)


@in_virtual_time
async def test_pings_that_came_while_we_did_not_read_are_no_flood() -> None:
    async with _links() as (node, target, _, _):
        sending = asyncio.create_task(_send_drafts(node, limits.MAX_QUEUE_FRAMES + 1))
        await asyncio.sleep(4 * limits.PINGS_AT_ONCE * limits.PING_SECONDS)
        for i in range(limits.MAX_QUEUE_FRAMES + 1):
            assert await target.receive() == _draft(i)
        await sending
        await node.send(_draft(7))
        assert await target.receive() == _draft(7)


async def _send_drafts(link: Any, count: int) -> None:
    for i in range(count):
        await link.send(_draft(i))


@in_virtual_time
async def test_a_peer_cannot_forge_its_round_trip_time() -> None:
    raw, target = await _raw_pair(Path(delay=0.5), Path(delay=0.5))
    ping = await raw.receive()
    assert isinstance(ping, Ping)
    for id in (ping.id + 1, ping.id + 100):
        await raw.send(Pong(id=id, at=0.0))
    await raw.send(Pong(id=ping.id, at=1e11))
    await raw.send(Pong(id=ping.id, at=0.0))
    await asyncio.sleep(1)
    assert target.rtt == pytest.approx(1.0, abs=0.01)
    await target.close()


@in_virtual_time
async def test_a_peer_that_pongs_unasked_ends_the_link() -> None:
    """Guessing the id of a ping that is under way cannot be tried again and again."""
    raw, target = await _raw_pair()
    for id in range(STRAY_PONGS + 2):  # one ping is out
        await raw.send(Pong(id=id, at=0.0))
    with pytest.raises(RemoteProtocolError, match="more Pongs than Pings"):
        await target.receive()
    with pytest.raises(PeerRefused) as refusal:
        while True:
            await raw.receive()
    assert refusal.value.code == CloseCode.PROTOCOL_ERROR


async def _speaking(raw: RawNode, seconds: float, *, guess: bool = False) -> None:
    """A node that drafts and pings for so long, and answers no ping; or answers with a guess."""
    for number in range(int(seconds)):
        await raw.send(_draft(number))
        await raw.send(Ping(id=number, at=0.0))
        if guess and number % 2:
            await raw.send(Pong(id=number, at=0.0))
        await asyncio.sleep(1)


async def _all_of(link: PeerLink[NodeToTarget]) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as fault:
        while True:
            await link.receive()
    return fault.value


@pytest.mark.parametrize("guess", [False, True])
@in_virtual_time
async def test_a_peer_that_speaks_but_answers_no_ping_is_cut_off(guess: bool) -> None:
    raw, target = await _raw_pair()
    listening = asyncio.create_task(_all_of(target))
    await _speaking(raw, limits.PONG_SECONDS - 1, guess=guess)
    assert not listening.done()
    assert target.rtt is None
    with contextlib.suppress(LinkClosed, PeerRefused):
        await _speaking(raw, 3, guess=guess)
    fault = await listening
    assert (fault.code, fault.reason) == (CloseCode.POLICY_VIOLATION, "Pings were left unanswered for 16 s")


@in_virtual_time
async def test_a_peer_that_answers_late_is_not_cut_off() -> None:
    there, back = Path(), Path()
    async with _links(there, back) as (node, target, _, _):
        there.delay = back.delay = 0.45 * limits.PONG_SECONDS
        for number in range(limits.MAX_QUEUE_FRAMES - 1):
            target.ping()  # besides those of its own
            await asyncio.sleep(2)
            await node.send(_draft(number))
        assert await target.receive() == _draft(0)
        assert target.rtt == pytest.approx(0.9 * limits.PONG_SECONDS, rel=0.01)


@in_virtual_time
async def test_pings_that_a_slow_reader_left_waiting_are_not_the_peers_fault() -> None:
    async with _links() as (node, target, _, _):
        count = 2 * limits.MAX_QUEUE_FRAMES
        sending = asyncio.create_task(_send_all(node, count))
        await asyncio.sleep(3 * limits.PONG_SECONDS)
        assert not target.reading
        assert [await target.receive() for _ in range(count)] == [_draft(i) for i in range(count)]
        await sending
        await asyncio.sleep(2 * limits.PONG_SECONDS)
        await node.send(_draft(1))
        assert await target.receive() == _draft(1)


async def _send_all(link: PeerLink[TargetToNode], count: int) -> None:
    for number in range(count):
        await link.send(_draft(number))


@in_virtual_time
async def test_who_dialled_waits_for_a_listener_that_does_not_read() -> None:
    async with _links() as (node, target, _, _):
        for number in range(2 * limits.MAX_QUEUE_FRAMES):
            await node.send(_draft(number))  # more than the target's inbox holds: no ping is read behind them
        for number in range(int(2 * limits.PONG_SECONDS)):
            await target.send(Close(session=number))
            assert await node.receive() == Close(session=number)
            await asyncio.sleep(1)


@in_virtual_time
async def test_the_handshake_shows_how_far_a_peer_is_at_most() -> None:
    async with _links(Path(delay=0.25), Path(delay=0.25)) as (node, target, _, _):
        assert node.greeted == target.greeted == pytest.approx(0.5)
        assert target.rtt is None


# The end ------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_message_at_fault_closes_the_link_with_its_reason() -> None:
    raw, target = await _raw_pair()
    await raw.send(_draft(1))
    await raw.transport.send(b"junk")
    await raw.send(_draft(2))
    assert await target.receive() == _draft(1)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="binary frame") as local:
            await target.receive()
        assert local.value.code is CloseCode.INVALID_DATA
    with pytest.raises(LinkClosed, match="closed here: binary frame"):
        await target.send(Close(session=1))
    with pytest.raises(PeerRefused, match="binary frame: ") as remote:
        while True:
            await raw.receive()
    assert remote.value.code == CloseCode.INVALID_DATA
    await target.close()


@pytest.mark.parametrize("message", [Hello(1, Role.NODE, bytes(32), bytes(32)), Welcome()])
def test_the_handshake_is_not_repeated(message: Hello | Welcome) -> None:
    @in_virtual_time
    async def run() -> None:
        raw, target = await _raw_pair()
        await raw.send(message)
        with pytest.raises(RemoteProtocolError, match="out of turn after the handshake"):
            await target.receive()

    run()


@in_virtual_time
async def test_a_long_reason_comes_whole() -> None:
    node, target, _, _ = await _pair(back=Path(delay=0.1))
    reason = "the coordinator restarts; " * 15
    await asyncio.gather(target.close(CloseCode.GOING_AWAY, reason, retry_after=30.0), asyncio.sleep(1))
    with pytest.raises(LinkClosed) as caught:
        await node.receive()
    assert str(caught.value) == reason
    assert node.retry_after == 30.0


@in_virtual_time
async def test_a_refusal_is_told_from_an_orderly_end() -> None:
    node, target, _, _ = await _pair()
    await target.send(Close(session=1))
    await target.close(CloseCode.LEASE_REFUSED, "the lease is for another target: " + "x" * 300)
    assert await node.receive() == Close(session=1)
    with pytest.raises(PeerRefused) as caught:
        await node.receive()
    assert caught.value.code == CloseCode.LEASE_REFUSED
    assert caught.value.reason.endswith("x" * 300)
    assert node.retry_after is None
    with pytest.raises(PeerRefused):
        await node.send(_draft(1))


@in_virtual_time
async def test_goodbye_without_a_close_is_waited_for_only_so_long() -> None:
    raw, target = await _raw_pair()
    start = asyncio.get_running_loop().time()
    await raw.send(Goodbye(reason="off home"))
    await raw.send(_draft(1))
    with pytest.raises(LinkClosed, match="off home"):
        await target.receive()
    assert asyncio.get_running_loop().time() - start == pytest.approx(2.0, abs=0.1)


@in_virtual_time
async def test_close_is_idempotent_and_wakes_whoever_waits() -> None:
    node, target, _, _ = await _pair()
    waiting = asyncio.create_task(node.receive())
    await target.send(Close(session=1))
    await target.send(Close(session=2))
    await asyncio.sleep(1)
    assert (await waiting) == Close(session=1)
    await asyncio.gather(node.close(), node.close(4000, "late"), node.close())
    await node.close()
    with pytest.raises(LinkClosed, match="closed here"):
        await node.receive()
    with pytest.raises(LinkClosed, match="closed here"):
        await node.send(_draft(1))
    with pytest.raises(LinkClosed):
        await target.receive()
    await target.close()


@in_virtual_time
async def test_close_is_bounded_when_the_peer_takes_nothing() -> None:
    node, target, _, _ = await _pair(Path(capacity=4))
    target._reader.cancel()  # the peer's process hangs
    sending = asyncio.create_task(_send_many(node))
    await asyncio.sleep(0.5)
    start = asyncio.get_running_loop().time()
    await node.close(1001, "going")
    assert asyncio.get_running_loop().time() - start <= 2.1
    with pytest.raises(LinkClosed):
        await sending
    await target.close()


async def _send_many(link: PeerLink[TargetToNode]) -> None:
    for i in range(100):
        await link.send(_draft(i))


@in_virtual_time
async def test_a_cancelled_close_still_closes() -> None:
    node, target, _, _ = await _pair()
    closing = asyncio.create_task(node.close(1001, "bye"))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    with pytest.raises(LinkClosed, match="bye"):
        await target.receive()
    await node.close()
