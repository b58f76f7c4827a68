"""WebSocket connections that hold no more for their peer than they were told to.

`websockets` answers every ping with a pong and never waits for that to be taken, so that a peer which pings and does
not read would make us hold its pongs without end. Whatever we send ourselves waits for room
(`Connection.send`), so more than a few frames unsent is the peer's doing.
"""

from __future__ import annotations

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from wanspec_p2p.protocol.limits import MAX_FRAME_BYTES

__all__ = ["MAX_UNSENT_BYTES", "BoundedClientConnection", "BoundedServerConnection"]

MAX_UNSENT_BYTES = 4 * MAX_FRAME_BYTES
"""A link has two senders, of one frame each at a time."""


class BoundedClientConnection(ClientConnection):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()


class BoundedServerConnection(ServerConnection):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()
