"""The sockets below the coordinator's port: nobody holds one for nothing, and nobody makes us hold bytes for him.

uvicorn bounds what a request may weigh; it does not bound how long one may take to come, how long an answer may wait to
be read, or in how many pieces a WebSocket message may be cut. A stranger needs no key to try any of these
(docs/reference/bad-input.md), so they are bounded here, below everything that knows what a request is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
import msgspec
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_client_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from coordinator.openai_responses import error_body
from wanspec_p2p.errors import CloseCode, RequestTimeout
from wanspec_p2p.links.refusal import reason_in
from wanspec_p2p.links.transport import CLOSE_SECONDS
from wanspec_p2p.links.turns import Turns
from wanspec_p2p.protocol.limits import MAX_FRAGMENTS

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

__all__ = ["MAX_PATH_SHOWN", "GuardedHttp", "GuardedWebSocket"]

MAX_CONNECTIONS = 4096
"""Open sockets of everybody together; the next one is answered 503 and closed."""
HEAD_SECONDS = 10.0
"""How long the head of a request may take, from the connection or from its first byte on a kept one."""
BODY_SECONDS = 60.0
"""How long its body may take: 4 MiB at 70 kB/s."""
STALL_SECONDS = 30.0
"""How long the other end may take nothing of what is waiting for it."""
MAX_PATH_SHOWN = 128
"""Of a path that a stranger asked for: characters in a log or an answer."""

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

log = structlog.get_logger("coordinator")


class _Unsent:
    """Aborts a connection whose other end takes nothing of what waits for it, closed or not.

    asyncio goes on offering what is unsent after `close` for as long as the other end keeps its side open.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._left = transport, 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Have us told of anything that is unsent; under TLS that may be at once."""
        self._transport.set_write_buffer_limits(high=1, low=0)

    def paused(self) -> None:
        self._left = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(STALL_SECONDS, self._look)

    def resumed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._left:
            self.paused()  # slow, but it reads
        else:
            log.info("hanging up on somebody who does not read", unsent_bytes=self._left)
            self._transport.abort()


class _Guarded(asyncio.Protocol):
    """Either of uvicorn's protocols, with an end to what its other end does not take."""

    _unsent: _Unsent

    def _watch(self, transport: asyncio.Transport) -> None:
        self._unsent = _Unsent(transport)
        self._unsent.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unsent.resumed()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent.paused()

    def resume_writing(self) -> None:
        self._unsent.resumed()
        super().resume_writing()


class GuardedHttp(_Guarded, H11Protocol):
    """uvicorn's HTTP/1.1, with an end to every wait for the other side."""

    _due: asyncio.TimerHandle | None = None
    _awaited: type | None = None  # the part of a request that is due

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            log.warning("too many connections", open=len(self.connections))
            transport.write(_FULL)
            transport.close()
            return
        self._await(h11.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may have begun with the next request, if that was sent ahead
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._await(None)
        self._unsent.resumed()
        super().handle_websocket_upgrade(event)

    def _look(self) -> None:
        """What is due now? Nothing on a websocket, nor where uvicorn's own timer ends a kept connection."""
        state = self.conn.their_state
        ours = self.transport.get_protocol() is self and self.timeout_keep_alive_task is None
        self._await(state if ours and state in (h11.IDLE, h11.SEND_BODY) else None)

    def _await(self, part: type | None) -> None:
        """Bytes of this part of a request are due from now on, unless they were already."""
        if part is self._awaited:
            return
        self._awaited = part
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if part is not None:
            seconds = BODY_SECONDS if part is h11.SEND_BODY else HEAD_SECONDS
            self._due = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        """Say so where a request has begun and nothing was answered yet; whoever said nothing is told nothing."""
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(error_body(RequestTimeout("the request did not come in time")))
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            head = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class GuardedWebSocket(_Guarded, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with an end to fragments, to pings, and to pongs for somebody who does not read them."""

    _turns: Turns
    _next_turn: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close_timeout = CLOSE_SECONDS
        self._turns = Turns(self.conn, self.loop.time)
        self._watch(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._turns.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._turns.begin()
        super().data_received(data)
        self._pace()

    async def receive(self) -> ASGIReceiveEvent:
        event = await super().receive()  # which reads on where nothing else has been put together
        self._pace()
        return event

    def _pace(self) -> None:
        """Read nothing more while not all that was read has been looked at, and look at it while somebody receives."""
        if not self._turns.waiting:
            return
        self.transport.pause_reading()
        if not self.read_paused and self._next_turn is None:
            self._next_turn = self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._next_turn = None
        if self._turns.waiting and not self.read_paused:
            self.data_received(b"")
            if not self._turns.waiting and not self.read_paused:
                self.transport.resume_reading()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent and not self.handshake_complete:
            # The handshake was refused. uvicorn would hold that for an error of ours, as if nothing had been answered.
            self.handshake_complete = True
            status, _, body = self.initial_response
            path, remote = self.scope["path"][:MAX_PATH_SHOWN], get_client_addr(self.scope)
            log.info("refused", path=path, remote=remote, status=status, reason=reason_in(body))

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        else:  # empty ones weigh nothing, so that no limit of bytes stops them
            self._refuse(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:  # uvicorn would write a traceback for what is the other end's mistake
                self._refuse(CloseCode.INVALID_DATA, "a text frame that is not UTF-8")
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # the pong; RFC 6455 §5.5.3 asks for the most recent one only

    def _refuse(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()
