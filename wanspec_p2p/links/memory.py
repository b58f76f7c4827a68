"""Transports without a network: FIFO pairs whose delay, jitter, bandwidth, stalls and cuts are programmed.

They behave as a TCP connection does: frames come whole, once and in order, or the link breaks; they never overtake
each other and are never lost on a link that lives on. Time is the running event loop's (`loop.call_at`), so that a
loop with virtual time plays hours in seconds, and the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from wanspec_p2p.errors import LinkClosed, PeerRefused
from wanspec_p2p.links.closing import close_reason, ended

__all__ = ["NANOSECONDS", "MemoryTransport", "Path", "memory_transports"]

_CAPACITY_FRAMES = 1024
NANOSECONDS = 9
"""Digits of a time: what is due at one moment comes at one, by whatever sums it was reached."""


@dataclass(slots=True)
class Path:
    """How frames travel one way. May be changed while they do; frames under way keep their time of arrival."""

    delay: float = 0.0  # seconds
    jitter: float = 0.0  # seconds; a uniform share of it is added to each frame's delay
    loss: float = 0.0  # chance that a frame is lost and sent again; TCP holds back what comes after it
    recovery: float = 0.0  # seconds that takes
    bandwidth: float | None = None  # bytes per second; None: unlimited
    capacity: int = _CAPACITY_FRAMES  # frames sent and not yet received before `send` waits


@dataclass(frozen=True, slots=True)
class _End:
    code: int
    reason: str


class _Wire:
    """One direction. `carry` takes what is sent, `inbox` holds what has arrived."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.inbox: deque[str | bytes | _End] = deque()
        self.changed = asyncio.Event()
        self._rng = rng
        self._under_way: deque[tuple[float, str | bytes | _End]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0  # when the sender's modem has sent what it was given
        self._last_arrival = 0.0
        self._stalled = False

    @property
    def full(self) -> bool:
        return len(self._under_way) + len(self.inbox) >= self.path.capacity

    @property
    def over(self) -> bool:
        """Whether the other end's close has arrived."""
        return bool(self.inbox) and isinstance(self.inbox[-1], _End)

    def carry(self, item: str | bytes | _End) -> None:
        path, now = self.path, asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + (_size(item) / path.bandwidth if path.bandwidth else 0.0)
        arrival = self._free_at + path.delay + path.jitter * self._rng.random()
        if path.loss and self._rng.random() < path.loss:
            arrival += path.recovery
        self._last_arrival = max(self._last_arrival, round(arrival, NANOSECONDS))
        self._under_way.append((self._last_arrival, item))
        if self._timer is None:  # what was sent before arrives before
            self._deliver()

    def stall(self, stalled: bool) -> None:
        self._stalled = stalled
        self._deliver()

    def cut(self) -> None:
        """What is under way is lost, and the reader learns that the link is gone."""
        self._under_way.clear()
        self._cancel_timer()
        self._arrive(_End(1006, "the link broke"))

    def _deliver(self) -> None:
        self._cancel_timer()  # also when it has just run: there is none then
        if self._stalled:
            return
        loop = asyncio.get_running_loop()
        while self._under_way and self._under_way[0][0] <= loop.time():
            self._arrive(self._under_way.popleft()[1])
        if self._under_way:
            self._timer = loop.call_at(self._under_way[0][0], self._deliver)

    def _arrive(self, item: str | bytes | _End) -> None:
        self.inbox.append(item)
        self.changed.set()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class MemoryTransport:
    """One end of a pair; a `Transport`. The methods that spoil the link may be called at either end."""

    def __init__(self, outgoing: _Wire, incoming: _Wire, channel_binding: bytes) -> None:
        self._outgoing, self._incoming = outgoing, incoming
        self._channel_binding = channel_binding
        self._ended: LinkClosed | PeerRefused | None = None

    @property
    def channel_binding(self) -> bytes:
        return self._channel_binding

    @property
    def path(self) -> Path:
        """How what this end sends travels."""
        return self._outgoing.path

    async def receive(self) -> str | bytes:
        inbox, changed = self._incoming.inbox, self._incoming.changed
        while self._ended is None and not inbox:
            changed.clear()
            await changed.wait()
        self._raise_if_ended()
        item = inbox.popleft()
        changed.set()  # the sender may be waiting for room
        if isinstance(item, _End):
            self._ended = ended(item.code, item.reason)
            raise self._ended
        return item

    async def send(self, frame: str | bytes) -> None:
        changed = self._outgoing.changed
        while self._ended is None and not self._incoming.over and self._outgoing.full:
            changed.clear()
            await changed.wait()
        self._raise_if_ended()
        if self._incoming.over:
            raise LinkClosed("the link is closed")  # why, `receive` says, when it has given out what came before
        self._outgoing.carry(frame)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """The peer receives what was sent before, then the end."""
        if self._ended is None:
            self._ended = LinkClosed("the link was closed here")
            self._outgoing.carry(_End(code, close_reason(reason)))
            self._incoming.changed.set()
            self._outgoing.changed.set()

    def stall(self) -> None:
        """Nothing this end sent arrives until `resume`."""
        self._outgoing.stall(True)

    def resume(self) -> None:
        self._outgoing.stall(False)

    def partition(self) -> None:
        """Nothing arrives either way until `heal`; as under TCP, nothing is lost if the link lives so long."""
        self._outgoing.stall(True)
        self._incoming.stall(True)

    def heal(self) -> None:
        self._outgoing.stall(False)
        self._incoming.stall(False)

    def disconnect(self) -> None:
        """Both ends lose the link now, and what is under way."""
        self._outgoing.cut()
        self._incoming.cut()

    def _raise_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(None)


def memory_transports(
    there: Path | None = None,
    back: Path | None = None,
    *,
    rng: random.Random | None = None,
    channel_binding: bytes = b"",
) -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected ends.

    Args:
        there, back: how frames travel from the first end to the second, and back; instantly if not given.
        rng: source of jitter.
    """
    rng = rng or random.Random(0)
    forward, backward = _Wire(there or Path(), rng), _Wire(back or Path(), rng)
    return (
        MemoryTransport(forward, backward, channel_binding),
        MemoryTransport(backward, forward, channel_binding),
    )


def _size(item: str | bytes | _End) -> int:
    if isinstance(item, _End):
        return 2 + len(item.reason.encode())
    return len(item) if isinstance(item, bytes) else len(item.encode())
