"""What a link is to everybody above it. Two kinds exist: WebSocket and in-memory."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from wanspec_p2p.types import PeerId, Role

__all__ = ["Link", "Transport"]

Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)


class Transport(Protocol):
    """Frames in, frames out, in order; text frames are `str`, binary ones `bytes`."""

    @property
    def channel_binding(self) -> bytes:
        """RFC 5929 tls-server-end-point (SHA-256 of the listener's certificate, DER); empty without TLS."""
        ...

    async def receive(self) -> str | bytes:
        """The next frame.

        Raises:
            LinkClosed: the transport ended without a reason of the peer's.
            PeerRefused: the peer closed it with a code and a reason.
            RemoteProtocolError: the peer broke a limit of the transport.
        """
        ...

    async def send(self, frame: str | bytes) -> None:
        """Raises LinkClosed or PeerRefused, as `receive`."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Link(Protocol, Generic[Out, In]):
    """An authenticated, typed, ordered link to one peer. Handshake, pings and limits are already dealt with."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def role(self) -> Role:
        """What the peer proved to be."""
        ...

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first pong."""
        ...

    @property
    def jitter(self) -> float | None:
        """How far round trips usually are from `rtt`, in seconds (RFC 6298 RTTVAR); None before the first pong."""
        ...

    @property
    def greeted(self) -> float | None:
        """Seconds the peer took to answer our last word of the handshake, a round trip at least; None: not measured."""
        ...

    async def send(self, message: Out) -> None:
        """Raises LinkClosed or PeerRefused."""
        ...

    async def receive(self) -> In:
        """Raises LinkClosed, PeerRefused, or RemoteProtocolError (the link is then closed with its code)."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...
