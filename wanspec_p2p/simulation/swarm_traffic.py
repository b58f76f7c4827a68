"""What passes the coordinator of a swarm: frames by kind, without a look into them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wanspec_p2p.links.memory import MemoryTransport

__all__ = ["CountedTransport", "Traffic"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames of control links by the type their text begins with, handshakes and pings included."""

    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)


class CountedTransport:
    """A `Transport` that counts what it is given."""

    def __init__(self, transport: MemoryTransport, traffic: Traffic) -> None:
        self._transport, self._traffic = transport, traffic

    @property
    def channel_binding(self) -> bytes:
        return self._transport.channel_binding

    async def receive(self) -> str | bytes:
        frame = await self._transport.receive()
        self._traffic.received[_kind(frame)] += 1
        return frame

    async def send(self, frame: str | bytes) -> None:
        await self._transport.send(frame)
        self._traffic.sent[_kind(frame)] += 1

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._transport.close(code, reason)


def _kind(frame: str | bytes) -> str:
    """Of a control frame: our codec writes the type first."""
    return frame.split('"', 4)[3] if isinstance(frame, str) and frame.startswith('{"type":"') else "other"
