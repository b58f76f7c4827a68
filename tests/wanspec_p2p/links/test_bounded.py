"""A peer that floods, or pings and never reads: what it costs us has an end, on either side of a connection."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from websockets.asyncio.client import connect as raw_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from tests.support.raw_websocket import Closed, RawWebSocket
from wanspec_p2p.errors import CloseCode, LinkClosed, RemoteProtocolError
from wanspec_p2p.links import bounded
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.turns import FRAMES_A_TURN, TOO_MANY_PINGS
from wanspec_p2p.links.websocket import DRAFT_PATH, dial, listen
from wanspec_p2p.protocol import limits

HELD = 1 << 16
PINGS = Frame(Opcode.PING, b"x" * 125).serialize(mask=False) * 500


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_UNSENT_BYTES", HELD)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a peer that pings slowly, for hours."""
    monkeypatch.setattr(limits, "PINGS_AT_ONCE", 1 << 30)


@pytest.mark.usefixtures("small", "patient")
async def test_at_the_listener() -> None:
    ended = asyncio.get_running_loop().create_future()

    async def note(transport: Transport) -> None:
        try:
            await transport.receive()
        except LinkClosed:
            ended.set_result(None)

    listener = await listen("127.0.0.1", 0, note, tls=None)
    raw = await RawWebSocket.upgraded(listener.port, DRAFT_PATH)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own type lacks it
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            while not ended.done():
                for _ in range(500):
                    raw.frame(Opcode.PING, b"x" * 125)
                await raw.writer.drain()
        await ended
    raw.close()
    await listener.close()


@pytest.mark.usefixtures("small", "patient")
async def test_at_the_dialler() -> None:
    async def flood(connection: ServerConnection) -> None:
        transport = connection.transport
        transport.pause_reading()
        while not transport.is_closing():
            transport.write(PINGS)
            while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0)

    async with serve(flood, "127.0.0.1", 0, subprotocols=[limits.SUBPROTOCOL], compression=None) as listener:  # type: ignore[list-item]  # a NewType of str
        transport = await dial(f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", certificate=None)
        async with asyncio.timeout(30):
            with pytest.raises(LinkClosed):
                await transport.receive()
        await transport.close()


@pytest.mark.usefixtures("small")
async def test_frames_of_our_own_are_not_counted_against_the_peer() -> None:
    """A large frame waits for room; it does not end the link."""

    async def echo(transport: Transport) -> None:
        with contextlib.suppress(LinkClosed):
            while True:
                await transport.send(await transport.receive())

    listener = await listen("127.0.0.1", 0, echo, tls=None)
    async with raw_connect(
        f"ws://127.0.0.1:{listener.port}{DRAFT_PATH}",
        subprotocols=[limits.SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
        compression=None,
    ) as websocket:
        async with asyncio.timeout(30):
            await websocket.send(b"x" * (HELD // 2))
            assert await websocket.recv() == b"x" * (HELD // 2)
    await listener.close()


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
async def test_a_flood_of_control_frames_ends_the_connection(opcode: Opcode) -> None:
    fault = asyncio.get_running_loop().create_future()

    async def note(transport: Transport) -> None:
        try:
            await transport.receive()
        except RemoteProtocolError as error:
            fault.set_result(error)

    listener = await listen("127.0.0.1", 0, note, tls=None)
    raw = await RawWebSocket.upgraded(listener.port, DRAFT_PATH)
    raw.write(Frame(opcode, b"").serialize(mask=True) * 10_000)
    assert await raw.closed() == Closed(CloseCode.POLICY_VIOLATION, TOO_MANY_PINGS)
    raw.close()
    async with asyncio.timeout(30):
        error = await fault
    assert (error.code, error.reason) == (CloseCode.POLICY_VIOLATION, TOO_MANY_PINGS)
    await listener.close()


async def test_what_came_in_one_read_is_taken_in_turns_and_whole() -> None:
    """More frames than the queue and one turn hold, and a large one among them."""
    received = []

    async def take(transport: Transport) -> None:
        with contextlib.suppress(LinkClosed):
            while True:
                received.append(await transport.receive())

    sent = [str(number).encode() for number in range(20 * FRAMES_A_TURN)]
    sent[500] = b"x" * (1 << 19)
    listener = await listen("127.0.0.1", 0, take, tls=None)
    raw = await RawWebSocket.upgraded(listener.port, DRAFT_PATH)
    raw.write(b"".join(Frame(Opcode.BINARY, data).serialize(mask=True) for data in sent))
    raw.frame(Opcode.CLOSE, (1000).to_bytes(2, "big"))
    assert await raw.closed() == Closed(1000, "")
    assert received == sent
    raw.close()
    await listener.close()


async def test_a_connection_that_is_cut_amid_a_read_is_over() -> None:
    ended = asyncio.get_running_loop().create_future()

    async def never_read(transport: Transport) -> None:
        connection = transport._connection  # type: ignore[attr-defined]
        while not connection._turns.waiting:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)
        connection.transport.abort()
        with pytest.raises(LinkClosed):
            while True:
                await transport.receive()
        ended.set_result(None)

    listener = await listen("127.0.0.1", 0, never_read, tls=None)
    raw = await RawWebSocket.upgraded(listener.port, DRAFT_PATH)
    raw.write(Frame(Opcode.BINARY, b"x").serialize(mask=True) * 10_000)
    async with asyncio.timeout(30):
        await ended
    raw.close()
    await listener.close()
