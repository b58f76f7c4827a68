"""What one full read of small frames costs the event loop: `python -m tests.floods` (docs/decisions/0034).

Processor time of this thread in milliseconds, the least of seven: the longest that nobody else had a turn, and all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeAlias

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from coordinator.connections import GuardedWebSocket
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.links.bounded import BoundedServerConnection
from wanspec_p2p.links.peer import PeerLink, _Frames
from wanspec_p2p.links.websocket import WebSocketTransport
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.common_messages import Ping
from wanspec_p2p.protocol.handshake import Complete
from wanspec_p2p.types import PeerId, Role

READ = 256 * 1024
"""asyncio reads so much at once (`selector_events`)."""
TURNS, TRIES = 20, 7
Cost: TypeAlias = tuple[float, float]


class Nowhere(asyncio.Transport):
    """Takes all that is written."""

    def write(self, data: Any) -> None:
        pass

    def writelines(self, list_of_data: Any) -> None:
        pass

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        pass

    abort = pause_reading = resume_reading = close

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def upgraded(protocol: Any) -> Any:
    """As after a handshake over HTTP."""
    protocol.state = OPEN
    protocol.parser = super(ServerProtocol, protocol).parse()
    next(protocol.parser)
    return protocol


async def measured(read: Callable[[bytes], None], data: bytes) -> Cost:
    begun = time.thread_time()
    read(data)
    longest = time.thread_time() - begun
    for _ in range(TURNS):
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    return longest, time.thread_time() - begun


async def at_target(data: bytes, *, linked: bool) -> Cost:
    """
    Args:
        linked: a peer's link takes the messages; otherwise nobody does.
    """
    protocol = upgraded(ServerProtocol(max_size=1 << 20, logger=logging.getLogger("quiet")))

    async def handler(connection: object) -> None:
        pass

    server: Any = SimpleNamespace(
        handler=handler, handler_tasks=set(), start_connection_handler=lambda connection: None
    )
    connection = BoundedServerConnection(protocol, server, ping_interval=None, max_queue=64)
    connection.request = object()  # type: ignore[assignment]  # it is there, and nobody reads it
    connection.connection_made(Nowhere())
    link: PeerLink[Any] | None = None
    if linked:
        frames = _Frames(WebSocketTransport(connection, b""), AT_TARGET_FROM_NODE)
        done = Complete(peer=PeerId("a" * 32), role=Role.NODE, public_key=b"k" * 32, features=(), software="")
        link = PeerLink(frames, done, SystemClock(), os.urandom)
        await asyncio.sleep(0)
    cost = await measured(connection.data_received, data)
    if link is not None:
        link._reader.cancel()
        link._keeper.cancel()
    return cost


async def at_coordinator(data: bytes) -> Cost:
    async def app(scope: object, receive: object, send: object) -> None:
        pass

    config = Config(app=app, log_config=None, ws_ping_interval=None, ws_per_message_deflate=False)
    config.load()
    connection = GuardedWebSocket(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(Nowhere())
    upgraded(connection.conn)
    connection.handshake_complete = True
    return await measured(connection.data_received, data)


def cases() -> Iterator[tuple[str, Callable[[bytes], Awaitable[Cost]], Frame]]:
    ping = str(AT_NODE_FROM_TARGET.encode(Ping(id=1, at=1.0))).encode()

    async def linked(data: bytes) -> Cost:
        return await at_target(data, linked=True)

    async def unread(data: bytes) -> Cost:
        return await at_target(data, linked=False)

    yield "JSON Pings, at a target", linked, Frame(Opcode.TEXT, ping)
    yield "WebSocket pings, at a target", unread, Frame(Opcode.PING, b"")
    yield "WebSocket pongs, at a target", unread, Frame(Opcode.PONG, b"")
    yield "WebSocket pings, at the coordinator", at_coordinator, Frame(Opcode.PING, b"")
    yield "empty messages nobody has received yet, at a target", unread, Frame(Opcode.TEXT, b"")
    yield "the same, at the coordinator", at_coordinator, Frame(Opcode.TEXT, b"")


async def main() -> None:
    for name, cost, frame in cases():
        one = frame.serialize(mask=True)
        count = READ // len(one)
        longest, whole = zip(*[await cost(one * count) for _ in range(TRIES)], strict=True)
        sys.stdout.write(
            f"{name:52} {count:6} frames, {min(longest) * 1e3:6.1f} ms without a turn, {min(whole) * 1e3:6.1f} in all\n"
        )


if __name__ == "__main__":
    asyncio.run(main())
