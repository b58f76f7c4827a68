"""What every transport over a real connection has in common, so that an adapter is three short methods."""

from __future__ import annotations

import abc
import asyncio
import contextlib

from wanspec_p2p.errors import LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.closing import close_reason

__all__ = ["CLOSE_SECONDS", "FrameTransport"]

CLOSE_SECONDS = 2.0
"""How long `close` waits for the peer to take part in it."""


class FrameTransport(abc.ABC):
    """A `Transport` over some WebSocket implementation.

    A subclass moves frames and raises `links.closing.ended(code, reason)` when the peer has ended the connection.
    This class sees to the rest: the first ending is remembered and raised ever after, `close` is idempotent and
    bounded, and its reason fits into a close frame. `_send_frame` must keep frames whole and in order when several
    tasks call it.

    Args:
        channel_binding: `security.tls.channel_binding` of the listener's certificate; empty without TLS.
    """

    def __init__(self, channel_binding: bytes) -> None:
        self._channel_binding = channel_binding
        self._ending: LinkClosed | PeerRefused | RemoteProtocolError | None = None
        self._closed_here = False

    @property
    def channel_binding(self) -> bytes:
        return self._channel_binding

    @abc.abstractmethod
    async def _receive_frame(self) -> str | bytes: ...

    @abc.abstractmethod
    async def _send_frame(self, frame: str | bytes) -> None: ...

    @abc.abstractmethod
    async def _close_connection(self, code: int, reason: str) -> None:
        """Called once, also when the peer has ended the connection; frees what it holds."""

    async def receive(self) -> str | bytes:
        if self._ending is not None:
            raise self._ending.with_traceback(None)
        try:
            return await self._receive_frame()
        except (LinkClosed, PeerRefused, RemoteProtocolError) as error:
            self._ending = self._ending or error
            raise self._ending from error.__cause__

    async def send(self, frame: str | bytes) -> None:
        try:
            if self._ending is not None:
                raise self._ending.with_traceback(None)
            await self._send_frame(frame)
        except RemoteProtocolError as error:
            raise LinkClosed(f"the link was closed here: {error.reason}") from error

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self._closed_here:
            return
        self._closed_here = True
        self._ending = self._ending or LinkClosed("the link was closed here")
        with contextlib.suppress(LinkClosed, PeerRefused, RemoteProtocolError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._close_connection(code, close_reason(reason))
