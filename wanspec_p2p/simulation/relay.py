"""A TCP relay that takes its time: what stands for distance where real processes talk over loopback.

As a connection across a WAN does it, bytes arrive once and in order, each later than it was sent by half a round trip
and jitter; one end's end of its stream is the other's after the same time. What a WAN also does is left out: segments
are not lost, and a connection is open at once. Time is the running loop's; chance is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import selectors
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["DelayLine", "Relay", "punctual_loop", "relaying"]

CAPACITY_BYTES = 1 << 20
"""Under way in one direction before its sender has to wait: 150 ms of some 50 Mbit/s."""
_CHUNK_BYTES = 1 << 16
_END = b""


def punctual_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are on time: epoll's, asyncio's usual choice, rounds up to whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class DelayLine:
    """Bytes on their way in one direction.

    Args:
        delay: seconds that each chunk is under way.
        jitter: seconds; a uniform share of it is added. Chunks do not overtake each other.
        capacity: bytes under way before `put` waits.

    Raises:
        ValueError: a value outside its range; the message names it.
    """

    def __init__(self, delay: float, jitter: float, rng: random.Random, capacity: int = CAPACITY_BYTES) -> None:
        for name, value in (("delay", delay), ("jitter", jitter)):
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if capacity < 1:
            raise ValueError(f"capacity must be 1 or more, not {capacity}")
        self._delay, self._jitter, self._rng, self._capacity = delay, jitter, rng, capacity
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_arrival = 0.0
        self._changed = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Send a chunk, or with none the end; waits while the line is full. For one task at a time, as `get` is."""
        while self._bytes >= self._capacity:
            await self._change()
        arrival = asyncio.get_running_loop().time() + self._delay + self._jitter * self._rng.random()
        self._last_arrival = max(self._last_arrival, arrival)
        self._under_way.append((self._last_arrival, chunk))
        self._bytes += len(chunk)
        self._changed.set()

    async def get(self) -> bytes:
        """The next chunk, once it has arrived; empty at the end."""
        while not self._under_way:
            await self._change()
        arrival, chunk = self._under_way[0]
        await asyncio.sleep(arrival - asyncio.get_running_loop().time())
        self._under_way.popleft()
        self._bytes -= len(chunk)
        self._changed.set()
        return chunk

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Relay:
    """Passes on to one address of this machine what dials another. Made by `relaying`. It can be spoilt, in the words
    of `links.memory`.

    Attributes:
        port: where to dial it, on 127.0.0.1.
    """

    def __init__(self, line: Callable[[str], DelayLine]) -> None:
        self.port = 0
        self._line = line
        self._upstream: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._numbers = itertools.count(1)
        self._connections: set[asyncio.Task[None]] = set()
        self._whole = asyncio.Event()  # cleared while nothing gets through
        self._whole.set()

    def towards(self, port: int) -> None:
        """Where connections lead; those that came before it was known have waited."""
        self._upstream.set_result(port)

    def disconnect(self) -> None:
        """Every connection breaks, at both ends, and what is under way is lost."""
        for task in self._connections:
            task.cancel()

    def partition(self) -> None:
        """Nothing gets through either way, and nobody is told, until `heal`; who dials in between finds nobody."""
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # One end has broken, or nobody listens at the other: as over a network, the dialler sees its stream end.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if self._whole.is_set():
                    await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def end_connections(self) -> None:
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"connection {next(self._numbers)}"
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", await asyncio.shield(self._upstream), limit=_CHUNK_BYTES
        )
        try:
            await _both(
                (reader, self._line(f"{name} there"), far_writer),
                (far_reader, self._line(f"{name} back"), writer),
                self._whole,
            )
        finally:
            far_writer.transport.abort()


@asynccontextmanager
async def relaying(delay: float, jitter: float, chance: Callable[[str], random.Random]) -> AsyncIterator[Relay]:
    """A relay for as long as the `async with` block lasts; it ends with all its connections.

    Args:
        delay, jitter: of each direction, as `DelayLine`'s.
        chance: a source of randomness for each direction of each connection, by name.
    """
    relay = Relay(lambda name: DelayLine(delay, jitter, chance(name)))
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0, limit=_CHUNK_BYTES)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.end_connections()
        await server.wait_closed()


_Direction = tuple[asyncio.StreamReader, DelayLine, asyncio.StreamWriter]


async def _both(there: _Direction, back: _Direction, whole: asyncio.Event) -> None:
    """Until both directions have ended in order, or one has broken: then the other is not waited for.

    Raises:
        OSError: it broke.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for reader, line, writer in (there, back):
                group.create_task(_fill(line, reader, whole))
                group.create_task(_empty(line, writer, whole))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _fill(line: DelayLine, reader: asyncio.StreamReader, whole: asyncio.Event) -> None:
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            await line.put(chunk)
    except OSError:  # one end is gone; while nothing gets through, the other is not to know
        await whole.wait()
        raise
    await line.put(_END)


async def _empty(line: DelayLine, writer: asyncio.StreamWriter, whole: asyncio.Event) -> None:
    writer.transport.set_write_buffer_limits(0)  # so that `drain` waits until the kernel has taken everything
    while True:
        chunk = await line.get()
        await whole.wait()
        if not chunk:
            break
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
    await writer.drain()
