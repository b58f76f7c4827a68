"""A WebSocket whose every frame a test writes itself, masks and mistakes included; and plain HTTP by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from websockets.frames import Frame, Opcode

from wanspec_p2p.protocol.limits import SUBPROTOCOL

__all__ = ["Closed", "RawConnection", "RawWebSocket"]

SECONDS = 15.0
"""Nothing a test waits for takes longer."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How the other end closed a WebSocket; code 1006 where it sent no close frame."""

    code: int
    reason: str


class RawConnection:
    """A TCP connection. Made by `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, *, buffer: int | None = None) -> RawConnection:
        """`buffer` is how many bytes the kernel may hold for us; none says: as many as it likes."""
        end = socket.socket()
        if buffer is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=end))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def end(self) -> bytes:
        """Everything that comes until the other end closes or cuts the connection (TimeoutError if it does not)."""
        received = b""
        async with asyncio.timeout(SECONDS):
            try:
                while data := await self.reader.read(65536):
                    received += data
            except ConnectionError:
                pass
        return received

    def close(self) -> None:
        self.writer.transport.abort()


class RawWebSocket(RawConnection):
    @classmethod
    async def upgraded(cls, port: int, path: str, headers: Mapping[str, str] | None = None) -> RawWebSocket:
        """After the HTTP upgrade (AssertionError where it is refused)."""
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455 §1.3
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": SUBPROTOCOL,
        } | dict(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        made.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(SECONDS):
            answer = await made.reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            made.close()
            raise AssertionError(answer)
        return made

    def frame(self, opcode: Opcode, data: bytes, *, fin: bool = True, masked: bool = True) -> None:
        self.write(Frame(opcode, data, fin).serialize(mask=masked))

    def text(self, data: str, *, fin: bool = True) -> None:
        self.frame(Opcode.TEXT, data.encode(), fin=fin)

    async def closed(self) -> Closed:
        """How it ended. What came before is skipped."""
        received = await self.end()
        while len(received) >= 2:
            opcode, length, at = received[0] & 0x0F, received[1] & 0x7F, 2
            if length == 126:
                length, at = struct.unpack("!H", received[2:4])[0], 4
            elif length == 127:
                length, at = struct.unpack("!Q", received[2:10])[0], 10
            payload, received = received[at : at + length], received[at + length :]
            if opcode == Opcode.CLOSE:
                return Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
        return Closed(1006, "")
