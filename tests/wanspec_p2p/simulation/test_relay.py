from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.simulation.relay import DelayLine, Relay, punctual_loop, relaying

MOST_SECONDS = 30


def line(delay: float = 0.0, jitter: float = 0.0, *, seed: int = 0, capacity: int = 1 << 20) -> DelayLine:
    return DelayLine(delay, jitter, random.Random(seed), capacity)


def now() -> float:
    return asyncio.get_running_loop().time()


# The line, in virtual time


@in_virtual_time
async def test_every_chunk_takes_its_time_and_so_does_the_end() -> None:
    way = line(0.075)
    arrived: list[tuple[float, bytes]] = []
    for chunk in (b"one", b"two", b""):
        await way.put(chunk)
        await asyncio.sleep(0.01)
    for _ in range(3):
        chunk = await way.get()
        arrived.append((round(now(), 9), chunk))
    assert arrived == [(0.075, b"one"), (0.085, b"two"), (0.095, b"")]


@in_virtual_time
async def test_who_waits_for_a_chunk_is_told_when_it_arrives() -> None:
    way = line(0.5)
    waiting = asyncio.create_task(way.get())
    await asyncio.sleep(2.0)
    await way.put(b"late")
    assert (await waiting, now()) == (b"late", 2.5)


async def arrivals(seed: int) -> list[float]:
    way = line(0.1, 0.02, seed=seed)
    for number in range(100):
        await way.put(bytes([number]))
        await asyncio.sleep(0.001)
    begun = now() - 0.1
    found = []
    for number in range(100):
        assert await way.get() == bytes([number])
        found.append(now() - begun)
    return found


@in_virtual_time
async def test_jitter_keeps_the_order_and_comes_from_the_seed() -> None:
    first = await arrivals(1)
    assert first == sorted(first)
    delays = [arrival - 0.001 * number for number, arrival in enumerate(first)]
    assert min(delays) >= 0.1 - 1e-9 and max(delays) <= 0.12 + 1e-9 and max(delays) - min(delays) > 0.01
    assert await arrivals(1) == pytest.approx(first) != await arrivals(2)


@in_virtual_time
async def test_a_full_line_holds_its_sender_until_something_has_arrived() -> None:
    way = line(1.0, capacity=8)
    await way.put(b"12345678")
    sending = asyncio.create_task(way.put(b"9"))
    await asyncio.sleep(5.0)
    assert not sending.done()
    assert await way.get() == b"12345678"
    await sending
    assert (await way.get(), now()) == (b"9", 6.0)


@pytest.mark.parametrize(
    ("delay", "jitter", "capacity", "fault"),
    [(-1.0, 0.0, 1, "delay"), (float("inf"), 0.0, 1, "delay"), (0.0, float("nan"), 1, "jitter"), (0.0, 0.0, 0, "capa")],
)
def test_a_line_that_is_none_is_refused(delay: float, jitter: float, capacity: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        line(delay, jitter, capacity=capacity)


# The relay, over loopback: what arrives, never when


class Listener:
    """Hands out the connections that reach it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.accepted.put_nowait((reader, writer))

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Relay, Listener]]:
    listener = Listener()
    server = await asyncio.start_server(listener.accept, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(MOST_SECONDS), relaying(0.001, 0.001, random.Random) as relay:
            relay.towards(server.sockets[0].getsockname()[1])
            yield relay, listener
    finally:
        listener.close()
        server.close()
        await server.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether a stream ends with nothing said, in order or not."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def connected(
    relay: Relay, listener: Listener
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamWriter]:
    """The near end of a new connection, then its far one."""
    near = await asyncio.open_connection("127.0.0.1", relay.port)
    return *near, *await listener.accepted.get()


async def parted(relay: Relay, listener: Listener) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    """What the near end of a connection writes to and the far one reads from, parted after a first word."""
    _, near_out, far, _ = await connected(relay, listener)
    near_out.write(b"before")
    assert await far.readexactly(6) == b"before"
    relay.partition()
    return near_out, far


async def find_nobody(relay: Relay) -> None:
    """Dial while nothing gets through."""
    dialled, dialled_out = await asyncio.open_connection("127.0.0.1", relay.port)
    assert await ended(dialled)
    dialled_out.transport.abort()


async def test_bytes_go_both_ways_in_order() -> None:
    async with relayed() as (relay, listener):
        near, near_out, far, far_out = await connected(relay, listener)
        data = bytes(itertools.islice(itertools.cycle(range(251)), 3_000_000))  # more than the line holds
        near_out.write(data)
        far_out.write(b"answer")
        assert await far.readexactly(len(data)) == data
        assert await near.readexactly(6) == b"answer"
        near_out.transport.abort()


async def test_an_end_that_has_said_everything_can_still_be_answered() -> None:
    async with relayed() as (relay, listener):
        near, near_out, far, far_out = await connected(relay, listener)
        near_out.write(b"question")
        near_out.write_eof()
        assert await far.read() == b"question"
        far_out.write(b"answer")
        far_out.close()
        assert await near.read() == b"answer"
        near_out.close()


@pytest.mark.parametrize("who", ["near", "far"])
async def test_when_one_end_is_gone_the_other_learns_it(who: str) -> None:
    async with relayed() as (relay, listener):
        near, near_out, far, far_out = await connected(relay, listener)
        gone, left = (near_out, far) if who == "near" else (far_out, near)
        gone.transport.abort()
        assert await ended(left)
        near_out.transport.abort()


async def test_a_broken_connection_is_broken_at_both_ends_and_another_can_be_made() -> None:
    async with relayed() as (relay, listener):
        near, near_out, far, far_out = await connected(relay, listener)
        relay.disconnect()
        assert await ended(near) and await ended(far)
        near_out.transport.abort()
        near, near_out, far, far_out = await connected(relay, listener)
        far_out.write(b"again")
        assert await near.readexactly(5) == b"again"
        near_out.transport.abort()


async def test_while_parted_nothing_gets_through_and_then_all_of_it() -> None:
    async with relayed() as (relay, listener):
        near_out, far = await parted(relay, listener)
        near_out.write(b"meanwhile")
        arriving = asyncio.create_task(far.readexactly(9))
        await find_nobody(relay)
        assert not arriving.done()
        relay.heal()
        assert await arriving == b"meanwhile"
        near_out.transport.abort()


@pytest.mark.parametrize("how", ["aborted", "closed"])
async def test_an_end_that_goes_while_parted_is_not_missed_until_then(how: str) -> None:
    async with relayed() as (relay, listener):
        near_out, far = await parted(relay, listener)
        near_out.transport.abort() if how == "aborted" else near_out.close()
        learning = asyncio.create_task(ended(far))
        for _ in range(3):  # its end reaches the relay, and no further
            await find_nobody(relay)
        assert not learning.done()
        relay.heal()
        assert await learning


async def test_where_nobody_listens_a_connection_ends() -> None:
    async with asyncio.timeout(MOST_SECONDS), relaying(0.0, 0.0, random.Random) as relay:
        taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = taken.sockets[0].getsockname()[1]
        taken.close()
        await taken.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        relay.towards(port)
        assert await ended(reader)
        writer.close()


async def test_connections_end_with_the_relay_also_those_that_lead_nowhere_yet() -> None:
    async with asyncio.timeout(MOST_SECONDS):
        async with relaying(60.0, 0.0, random.Random) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"never arrives")
            await writer.drain()
            port = relay.port
        assert await ended(reader)
        writer.transport.abort()
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", port)


def test_the_loop_is_one_of_asyncios_own() -> None:
    with asyncio.Runner(loop_factory=punctual_loop) as runner:
        assert runner.run(asyncio.sleep(0, "done")) == "done"
