from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import LinkClosed, PeerRefused
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.memory import MemoryTransport, Path, memory_transports


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _arrivals(transport: MemoryTransport, count: int) -> list[tuple[float, str | bytes]]:
    return [await _arrival(transport) for _ in range(count)]


async def _arrival(transport: MemoryTransport) -> tuple[float, str | bytes]:
    frame = await transport.receive()
    return _now(), frame


@in_virtual_time
async def test_frames_arrive_as_they_were_sent() -> None:
    a, b = memory_transports(channel_binding=b"x")
    transports: list[Transport] = [a, b]
    assert [transport.channel_binding for transport in transports] == [b"x", b"x"]
    for frame in ("text", b"binary", ""):
        await a.send(frame)
    assert [await b.receive() for _ in range(3)] == ["text", b"binary", ""]
    await b.send("back")
    assert await a.receive() == "back"
    assert _now() == 0.0


@in_virtual_time
async def test_delay_and_bandwidth() -> None:
    a, b = memory_transports(Path(delay=0.05, bandwidth=1000.0), Path(delay=0.2))
    await a.send(b"x" * 100)
    await a.send("ü" * 50)
    await b.send("back")
    assert await _arrivals(b, 2) == [(pytest.approx(0.15), b"x" * 100), (pytest.approx(0.25), "ü" * 50)]
    assert await _arrival(a) == (pytest.approx(0.25), "back")
    a.path.delay, a.path.bandwidth = 1.0, None
    await a.send("later")
    assert await _arrival(b) == (pytest.approx(1.25), "later")


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_jitter_keeps_the_order_and_the_same_seed_gives_the_same_run(seed: int) -> None:
    @in_virtual_time
    async def run() -> None:
        a, b = memory_transports(Path(delay=0.01, jitter=0.1), rng=random.Random(seed))
        sending = asyncio.create_task(_send_slowly(a))
        arrivals = await _arrivals(b, 30)
        await sending
        assert [frame for _, frame in arrivals] == [str(i) for i in range(30)]
        assert all(i * 0.01 + 0.0099 <= at for i, (at, _) in enumerate(arrivals))
        runs.append([at for at, _ in arrivals])

    runs: list[list[float]] = []
    run(), run()
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 1


@in_virtual_time
async def test_a_lost_frame_holds_back_what_comes_after_it() -> None:
    a, b = memory_transports(Path(delay=0.01, loss=1.0, recovery=0.2))
    await a.send("lost and sent again")
    a.path.loss = 0.0
    await a.send("waits for it")
    await asyncio.sleep(0.5)
    await a.send("on time")
    assert await _arrivals(b, 2) == [(0.5, "lost and sent again"), (0.5, "waits for it")]
    assert await _arrival(b) == (pytest.approx(0.51), "on time")


@in_virtual_time
async def test_so_many_frames_are_lost() -> None:
    a, b = memory_transports(Path(loss=0.1, recovery=0.5))
    for _ in range(2000):
        await a.send("frame")
        await b.receive()
    assert _now() / 0.5 == pytest.approx(200, abs=40)


async def _send_slowly(transport: MemoryTransport) -> None:
    for i in range(30):
        await transport.send(str(i))
        await asyncio.sleep(0.01)


@in_virtual_time
async def test_a_stall_holds_frames_back_and_loses_none() -> None:
    a, b = memory_transports(Path(delay=0.1))
    a.stall()
    await a.send("1")
    await a.send("2")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await b.receive()
    await b.send("the other way is open")
    assert await a.receive() == "the other way is open"
    a.resume()
    assert await _arrivals(b, 2) == [(60.0, "1"), (60.0, "2")]


@in_virtual_time
async def test_a_partition_is_a_stall_both_ways() -> None:
    a, b = memory_transports()
    a.partition()
    await a.send("there")
    await b.send("back")
    for end in (a, b):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await end.receive()
    b.heal()
    assert (await a.receive(), await b.receive()) == ("back", "there")


@in_virtual_time
async def test_a_disconnection_takes_what_is_under_way() -> None:
    a, b = memory_transports(Path(delay=1.0))
    await a.send("lost")
    waiting = asyncio.create_task(b.receive())
    await asyncio.sleep(0.5)
    b.disconnect()
    with pytest.raises(LinkClosed, match="broke"):
        await waiting
    for end in (a, b):
        with pytest.raises(LinkClosed, match="broke"):
            await end.receive()
        with pytest.raises(LinkClosed):
            await end.send("x")


@in_virtual_time
async def test_a_close_comes_after_what_was_sent_before() -> None:
    a, b = memory_transports(Path(delay=1.0))
    await a.send("last words")
    await a.close(4004, "ü" * 100)
    await a.close()
    with pytest.raises(LinkClosed, match="closed here"):
        await a.receive()
    with pytest.raises(LinkClosed, match="closed here"):
        await a.send("x")
    await b.send("does not know yet")
    assert await _arrival(b) == (1.0, "last words")
    with pytest.raises(LinkClosed):
        await b.send("x")
    for _ in range(2):
        with pytest.raises(PeerRefused, match="ü" * 61) as caught:
            await b.receive()
        assert caught.value.code == 4004


@in_virtual_time
async def test_close_wakes_whoever_waits_at_this_end() -> None:
    a, b = memory_transports(Path(capacity=1))
    await a.send("fills it")
    waiting = [asyncio.create_task(a.receive()), asyncio.create_task(a.send("no room"))]
    await asyncio.sleep(1)
    await a.close()
    for task in waiting:
        with pytest.raises(LinkClosed, match="closed here"):
            await task
    assert await b.receive() == "fills it"


@in_virtual_time
async def test_a_full_path_makes_the_sender_wait() -> None:
    a, b = memory_transports(Path(capacity=2))
    await a.send("1")
    await a.send("2")
    third = asyncio.create_task(a.send("3"))
    await asyncio.sleep(100)
    assert not third.done()
    assert await b.receive() == "1"
    await third
    assert [await b.receive(), await b.receive()] == ["2", "3"]


@in_virtual_time
async def test_receiving_may_be_cancelled() -> None:
    a, b = memory_transports()
    waiting = asyncio.create_task(b.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await a.send("kept")
    await asyncio.wait([waiting])
    assert await b.receive() == "kept"
