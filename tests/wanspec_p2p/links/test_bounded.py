"""A peer that pings and never reads: what we hold for it has an end, on either side of a connection."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from websockets.asyncio.client import connect as raw_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from tests.support.raw_websocket import RawWebSocket
from wanspec_p2p.errors import LinkClosed
from wanspec_p2p.links import bounded
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.websocket import DRAFT_PATH, dial, listen
from wanspec_p2p.protocol import limits

HELD = 1 << 16
PINGS = Frame(Opcode.PING, b"x" * 125).serialize(mask=False) * 500


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_UNSENT_BYTES", HELD)


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
