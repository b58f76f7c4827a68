"""WebSocket connections that hold no more for their peer than they were told to, and give others their turn.

`websockets` answers every ping with a pong and never waits for that to be taken, so that a peer which pings and does
not read would make us hold its pongs without end. Whatever we send ourselves waits for room
(`Connection.send`), so more than a few frames unsent is the peer's doing.

It parses the whole of what was read at once, too, however full the queue of its reader is. Here it stops for others
(`links.turns`), and while the queue is full.
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection

from wanspec_p2p.links.turns import Turns
from wanspec_p2p.protocol.limits import MAX_FRAME_BYTES

__all__ = ["MAX_SOCKETS", "MAX_UNSENT_BYTES", "BoundedClientConnection", "BoundedServerConnection"]

MAX_SOCKETS = 2048
"""Open connections of one listener, links (`websocket.MAX_LINKS`) and those that have yet to ask for one; the next is
hung up on. Under TLS they count once its handshake is over.
"""
MAX_UNSENT_BYTES = 4 * MAX_FRAME_BYTES
"""A link has two senders, of one frame each at a time."""


class _Bounded(Connection):
    """Either of `websockets`' connections."""

    _turns: Turns
    _made = False
    _full = False  # the queue of frames nobody has received yet
    _next_turn: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._turns, self._made = Turns(self.protocol, self.loop.time), True
        super().connection_made(transport)
        self.recv_messages.pause, self.recv_messages.resume = self._pause, self._resume

    def data_received(self, data: bytes) -> None:
        self._turns.begin()
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()
        self._look()

    def eof_received(self) -> None:
        self._turns.end()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._made:  # lost in the TLS handshake through a proxy; whoever dials is told so
            return
        self._turns.end()
        if self._next_turn is not None:
            self._next_turn.cancel()
        super().connection_lost(exc)

    def _pause(self) -> None:
        self._full = True
        self._look()

    def _resume(self) -> None:
        self._full = False
        self._look()

    def _look(self) -> None:
        """Read on only when what was read has been looked at and there is room for more."""
        waiting = self._turns.waiting
        if waiting and not self._full and self._next_turn is None:
            self._next_turn = self.loop.call_soon(self._go_on)
        if waiting or self._full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        self._next_turn = None
        if self._turns.waiting and not self._full:
            self.data_received(b"")


class BoundedClientConnection(_Bounded, ClientConnection):
    pass


class BoundedServerConnection(_Bounded, ServerConnection):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.server.handler_tasks) > MAX_SOCKETS:
            self.transport.abort()
