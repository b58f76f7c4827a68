from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Opcode

from tests.support.raw_websocket import Closed, RawConnection, RawWebSocket
from wanspec_p2p.protocol.limits import SUBPROTOCOL


async def answer(connection: ServerConnection) -> None:
    message = await connection.recv()
    await connection.send(message * 50)
    await connection.close(4321, f"heard {len(message)}")


async def test_fragments_arrive_as_one_message_and_the_close_is_read() -> None:
    async with serve(answer, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as listener:
        raw = await RawWebSocket.upgraded(listener.sockets[0].getsockname()[1], "/anything")
        raw.text("ab", fin=False)
        raw.frame(Opcode.CONT, b"cd")
        assert await raw.closed() == Closed(4321, "heard 4")
        raw.close()


async def test_a_refused_upgrade_and_a_cut_connection() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 No\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(AssertionError, match="400 No"):
            await RawWebSocket.upgraded(port, "/")
        plain = await RawConnection.open(port, buffer=4096)
        plain.write(b"x\r\n\r\n")
        assert await plain.end() == b"HTTP/1.1 400 No\r\n\r\n"
        plain.close()
