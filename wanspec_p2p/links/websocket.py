"""WebSocket transports: how peers reach each other over a network.

Deflate is off (token ids do not compress, and it costs both ends CPU and memory), sizes and queues are explicit, and
WebSocket pings are off because links send their own. TLS is pinned: the certificate's fingerprint is compared before
a single byte of HTTP is sent. Plain `ws://` is for loopback alone, in both directions; there is no switch for that.
"""

from __future__ import annotations

import asyncio
import errno
import http
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from wanspec_p2p.errors import (
    AddressInUse,
    CloseCode,
    ConfigError,
    LinkClosed,
    PeerRefused,
    RemoteProtocolError,
    Unreachable,
    WanspecError,
)
from wanspec_p2p.links import address
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.bounded import BoundedClientConnection, BoundedServerConnection
from wanspec_p2p.links.closing import ended
from wanspec_p2p.links.draft_address import DRAFT_PATH
from wanspec_p2p.links.refusal import reason_in
from wanspec_p2p.links.transport import CLOSE_SECONDS, FrameTransport
from wanspec_p2p.links.turns import TOO_MANY_PINGS
from wanspec_p2p.protocol import limits
from wanspec_p2p.security.certificate_succession import leads_to
from wanspec_p2p.security.tls import ListenerContext, channel_binding, dialler_context, fingerprint, is_loopback

__all__ = ["DRAFT_PATH", "Listener", "WebSocketTransport", "dial", "listen"]

MAX_LINKS = 1024
"""Transports one listener serves at a time, those of strangers who have yet to prove themselves included."""

_log = logging.getLogger(__name__)
_SUBPROTOCOL = Subprotocol(limits.SUBPROTOCOL)
_FAULTS_OF_FRAMES = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)


class WebSocketTransport(FrameTransport):
    """Attributes:
    certificate: SHA-256 of what the listener we dialled has shown (DER), hex; None without TLS and at its own end.
    """

    def __init__(self, connection: Connection, binding: bytes, certificate: str | None = None) -> None:
        super().__init__(binding)
        self.certificate = certificate
        self._connection = connection

    async def _receive_frame(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise _ending(error) from error

    async def _send_frame(self, frame: str | bytes) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise _ending(error) from error

    async def _close_connection(self, code: int, reason: str) -> None:
        try:
            await self._connection.close(code, reason)
        finally:
            self._connection.transport.abort()  # a peer that does not answer the close frame is not waited for


def _ending(error: ConnectionClosed) -> LinkClosed | PeerRefused | RemoteProtocolError:
    sent, received = error.sent, error.rcvd
    if sent is not None and not error.rcvd_then_sent:
        if sent.code in _FAULTS_OF_FRAMES:
            reason = f"frames that cannot be read: {sent.reason or 'malformed'}"
            return RemoteProtocolError(reason, CloseCode(sent.code))
        if sent.reason == TOO_MANY_PINGS:
            return RemoteProtocolError(sent.reason, CloseCode.POLICY_VIOLATION)
    if received is not None:
        return ended(received.code, received.reason)
    return LinkClosed("the connection broke")


# Dialling ----------------------------------------------------------------------------------------------------------


class _Connect(connect):
    """`websockets.connect` that looks at the certificate before it speaks, and follows no redirects."""

    def __init__(self, url: str, certificate: str | None, *, loopback: bool) -> None:
        tls: dict[str, Any] = {} if certificate is None else {"ssl": dialler_context()}
        super().__init__(
            url,
            subprotocols=[_SUBPROTOCOL],
            compression=None,
            user_agent_header=None,
            proxy=None if loopback else True,
            open_timeout=limits.HANDSHAKE_SECONDS,
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            max_size=limits.MAX_FRAME_BYTES,
            max_queue=limits.MAX_QUEUE_FRAMES,
            logger=_log,
            create_connection=BoundedClientConnection,
            **tls,
        )
        self.certificate = certificate
        self.shown: str | None = None
        self.binding = b""

    async def open_tcp_connection(self) -> ClientConnection:
        connection = await super().open_tcp_connection()
        if self.certificate is None:
            return connection
        shown = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        if not leads_to(shown, self.certificate):
            connection.transport.abort()
            raise RemoteProtocolError(
                f"{self.uri} shows a certificate with fingerprint {fingerprint(shown)}, not the expected "
                f"{self.certificate}: it has been replaced, or this is not the right peer",
                CloseCode.HANDSHAKE_FAILED,
            )
        self.shown, self.binding = fingerprint(shown), channel_binding(shown)
        return connection

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def dial(url: str, *, certificate: str | None) -> WebSocketTransport:
    """Open a transport to a listener.

    Args:
        url: ws:// (loopback only) or wss://.
        certificate: SHA-256 of the listener's certificate (DER), hex; required for wss://, not used for ws://. One that
            came after it is accepted as well (security/certificate_succession.py).

    Raises:
        ConfigError: the URL is none, is plain and not loopback, or lacks a fingerprint.
        Unreachable: nobody, or nobody who speaks this protocol, answers there.
        RemoteProtocolError: who answers shows another certificate.
    """
    secure, host = _checked(url)
    if secure and certificate is None:
        raise ConfigError(f"{url}: the fingerprint of its certificate is not known; a join token or a lease carries it")
    try:
        opening = _Connect(url, certificate if secure else None, loopback=is_loopback(host))
        connection = await opening
    except InvalidStatus as error:
        status = error.response.status_code
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise Unreachable(f"{url} has no room for another connection at the moment: try again") from error
        reason = reason_in(error.response.body) if 400 <= status < 500 else ""
        said = f'"{reason}"' if reason else "nothing of wanspec-p2p listens there"
        raise Unreachable(f"{url} answers with HTTP status {status}: {said}") from error
    except InvalidURI as error:
        raise ConfigError(f"{url!r} is not an address of a peer: {error.msg}") from error
    except (InvalidProxy, ImportError, UnicodeError) as error:  # the last: its host, since ours has been looked at
        raise ConfigError(f"the proxy of this system's settings cannot be used: {error}") from error
    except InvalidHandshake as error:
        raise Unreachable(f"{url} does not answer as wanspec-p2p does: {error}") from error
    except ssl.SSLError as error:
        raise Unreachable(f"{url} does not answer as a TLS listener does: {error.reason or error}") from error
    except TimeoutError as error:
        raise Unreachable(f"{url} did not answer within {limits.HANDSHAKE_SECONDS:g} s") from error
    except OSError as error:
        raise Unreachable(
            f"nobody answers at {url}: {error.strerror or str(error) or 'the connection broke'}"
        ) from error
    transport = WebSocketTransport(connection, opening.binding, opening.shown)
    if connection.subprotocol != _SUBPROTOCOL:
        await transport.close(CloseCode.PROTOCOL_ERROR, f"subprotocol {_SUBPROTOCOL} expected")
        raise Unreachable(f"{url} accepts WebSockets but does not speak {_SUBPROTOCOL}: check the address")
    return transport


def _checked(url: str) -> tuple[bool, str]:
    try:
        parts, host = address.split(url)
    except ValueError as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in ("ws", "wss") or not host:
        raise ConfigError(f"{url!r} is not an address of a peer: it must start with wss:// (or ws:// on this machine)")
    if parts.scheme == "ws" and not is_loopback(host):
        raise ConfigError(f"{url} is neither loopback nor encrypted: only wss:// leaves this machine")
    return parts.scheme == "wss", host


# Listening ---------------------------------------------------------------------------------------------------------


class Listener:
    """A listening socket and the transports it has accepted."""

    def __init__(self, server: Server, handlers: set[asyncio.Task[None]], port: int) -> None:
        self.port = port
        self._server, self._handlers = server, handlers

    async def close(self) -> None:
        """Stop listening, close what is open (1001), and see every handler end, if need be by cancellation."""
        self._server.close()
        if self._handlers:
            _, late = await asyncio.wait(set(self._handlers), timeout=2 * CLOSE_SECONDS)
            for task in late:
                task.cancel()
        await self._server.wait_closed()


async def listen(
    host: str,
    port: int,
    on_transport: Callable[[Transport], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None,
    path: str = DRAFT_PATH,
) -> Listener:
    """Accept transports, each handled by its own call of `on_transport` and closed when that returns.

    Args:
        port: 0 lets the system choose; `Listener.port` is the answer.
        tls: from `security.tls.listener_context`; None on loopback only.

    Raises:
        AddressInUse, ConfigError: the address is taken, not ours, or neither loopback nor encrypted.
    """
    if tls is None and not is_loopback(host):
        raise ConfigError(f"refusing to listen on {host} without TLS: give a certificate, or listen on 127.0.0.1")
    if tls is not None and not isinstance(tls, ListenerContext):
        raise TypeError("the context must know its certificate: make it with security.tls.listener_context")
    binding = b"" if tls is None else channel_binding(tls.certificate)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(connection: ServerConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        transport = WebSocketTransport(connection, binding)
        try:
            await on_transport(transport)
        except WanspecError as error:
            _log.info("a link from %s ended: %s", connection.remote_address, error)
        finally:
            handlers.discard(task)
            await transport.close()

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if request.path != path:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"links are accepted at {path}\n")
        if len(handlers) >= MAX_LINKS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many links at once: try again\n")
        return None

    try:
        server = await serve(
            handle,
            host,
            port,
            ssl=tls,
            origins=[None],  # browsers name one; nothing of ours runs in a browser
            subprotocols=[_SUBPROTOCOL],
            compression=None,
            process_request=refuse,
            server_header=None,
            open_timeout=limits.HANDSHAKE_SECONDS,
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            max_size=limits.MAX_FRAME_BYTES,
            max_queue=limits.MAX_QUEUE_FRAMES,
            logger=_log,
            create_connection=BoundedServerConnection,
            ssl_handshake_timeout=None if tls is None else limits.HANDSHAKE_SECONDS,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(host, port) from error
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return Listener(server, handlers, server.sockets[0].getsockname()[1])
