"""What a machine of a simulation did: passes through its model, frames on its links."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.memory import MemoryTransport
from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.types import Segment

__all__ = ["MeteredModel", "TracedTransport", "Work", "traced"]


@dataclass(frozen=True, slots=True)
class Work:
    """Counts, or the difference of two counts. Bytes are payload: no WebSocket framing, no TLS."""

    passes: int = 0
    segments: int = 0
    rows: int = 0  # of logits in these passes
    busy: float = 0.0  # virtual seconds in passes
    frames_up: int = 0  # from a node to its target
    frames_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def __sub__(self, earlier: Work) -> Work:
        return Work(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(Work)))


class MeteredModel:
    """A `LanguageModel` that counts what it is asked to do.

    Attributes:
        passes, segments, rows, busy: as in `Work`; passes are counted as they begin.
        running: passes under way.
    """

    def __init__(self, model: LanguageModel, name: str, trace: Trace | None) -> None:
        self._model, self._name, self._trace = model, name, trace
        self.passes = self.segments = self.rows = self.running = 0
        self.busy = 0.0

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        rows = sum(segment.rows for segment in batch)
        self.passes += 1
        self.segments += len(batch)
        self.rows += rows
        self.running += 1
        try:
            return await self._model.forward(batch)
        finally:
            self.running -= 1
            self.busy += loop.time() - begun
            if self._trace is not None:
                self._trace.note("pass", machine=self._name, begun=begun, segments=len(batch), rows=rows)

    async def release(self, cache: str) -> None:
        await self._model.release(cache)

    async def close(self) -> None:
        await self._model.close()


class TracedTransport:
    """A `Transport` that notes the frames it is given."""

    def __init__(self, transport: MemoryTransport, sender: str, receiver: str, trace: Trace) -> None:
        self._transport, self._trace = transport, trace
        self._sender, self._receiver = sender, receiver

    @property
    def channel_binding(self) -> bytes:
        return self._transport.channel_binding

    async def receive(self) -> str | bytes:
        return await self._transport.receive()

    async def send(self, frame: str | bytes) -> None:
        content = frame.encode() if isinstance(frame, str) else frame
        self._trace.note(
            "frame", sender=self._sender, receiver=self._receiver, bytes=len(content), crc=zlib.crc32(content)
        )
        await self._transport.send(frame)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._trace.note("close", sender=self._sender, receiver=self._receiver, code=int(code), reason=reason)
        await self._transport.close(code, reason)


def traced(transport: MemoryTransport, sender: str, receiver: str, trace: Trace | None) -> Transport:
    """The transport itself where nobody keeps a trace."""
    return transport if trace is None else TracedTransport(transport, sender, receiver, trace)
