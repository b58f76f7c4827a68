from __future__ import annotations

import asyncio
import random
import socket

import pytest

from node import landmarks as module
from node.landmarks import LandmarkTimer, connection_seconds
from tests.support.waits import Waits
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.protocol.limits import LANDMARK_SECONDS
from wanspec_p2p.protocol.node_to_coordinator import Timed
from wanspec_p2p.types import PeerId


def landmark(name: str, address: str = "wss://gpu.example:1/wanspec/draft") -> Landmark:
    return Landmark(PeerId(name * 32), address)


class Ways:
    """Round trips as a test wants them: each next one of a target, and Unreachable after the last.

    Attributes:
        tried: whom, in order.
        most: how many were under way at once.
    """

    def __init__(self, **seconds: list[float]) -> None:
        self._seconds = seconds
        self.tried: list[str] = []
        self.most = self._now = 0

    async def time(self, landmark: Landmark) -> float:
        name = landmark.target[0]
        self.tried.append(name)
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        if not self._seconds.get(name):
            raise Unreachable("nobody answers there")
        return self._seconds[name].pop(0)


class Bench:
    def __init__(self, ways: Ways) -> None:
        self.ways, self.clock, self.waits = ways, ManualClock(), Waits()
        self.told: list[Timed] = []
        self.timer = LandmarkTimer(ways.time, clock=self.clock, rng=random.Random(1), sleep=self.waits)

    async def time(self, *names: str) -> float:
        """A round from its beginning to its end; how long was waited before it."""
        task = asyncio.create_task(self.timer.time([landmark(name) for name in names], self.told.append))
        await self.waits.end()
        await task
        return self.waits.asked[-1]


async def test_the_shortest_of_a_few_round_trips_is_told_one_target_after_the_other() -> None:
    bench = Bench(Ways(a=[0.03, 0.02, 0.05], b=[0.1, 0.2, 0.3]))
    await bench.time("a", "b")
    assert bench.told == [Timed(PeerId("a" * 32), 0.02), Timed(PeerId("b" * 32), 0.1)]
    assert bench.ways.tried == ["a"] * 3 + ["b"] * 3
    assert bench.ways.most == 1


async def test_of_a_target_that_is_not_reached_nothing_is_told_and_no_more_is_tried() -> None:
    bench = Bench(Ways(b=[0.1], c=[0.1, 0.1, 0.1]))
    await bench.time("a", "b", "c")
    assert [timed.target[0] for timed in bench.told] == ["c"]
    assert bench.ways.tried == ["a", "b", "b", "c", "c", "c"]


async def test_a_target_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_SECONDS", 0.0)

    async def hang(landmark: Landmark) -> float:
        await asyncio.Event().wait()
        raise AssertionError

    bench = Bench(Ways())
    bench.timer = LandmarkTimer(hang, clock=bench.clock, rng=random.Random(1), sleep=bench.waits)
    await bench.time("a", "b")
    assert bench.told == []


async def test_rounds_keep_their_distance_however_often_the_coordinator_asks() -> None:
    bench = Bench(Ways())
    assert 0.0 <= await bench.time("a") <= module.SPREAD_SECONDS
    bench.clock.advance(10.0)
    assert await bench.time("a") >= LANDMARK_SECONDS - 10.0
    bench.clock.advance(2 * LANDMARK_SECONDS)
    assert await bench.time("a") <= module.SPREAD_SECONDS


async def test_a_round_that_was_broken_off_counts() -> None:
    bench = Bench(Ways())
    task = asyncio.create_task(bench.timer.time([landmark("a")], bench.told.append))
    await bench.waits.end()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bench.ways.tried == ["a"]
    assert await bench.time("a") >= LANDMARK_SECONDS


# Over TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_connection_is_timed_and_nothing_is_sent_on_it(host: str) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_server(hear, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        assert await connection_seconds(landmark("a", f"wss://{host}:{port}/wanspec/draft"), SystemClock()) >= 0.0
        assert await heard.get() == b""


async def test_a_port_nobody_listens_at_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}/wanspec/draft"
        with pytest.raises(Unreachable, match=r"nobody answers at ws://127\.0\.0\.1:"):
            await connection_seconds(landmark("a", address), SystemClock())


@pytest.mark.parametrize(
    "address",
    ["ws://203.0.113.7:80/wanspec/draft", "wss://gpu.example:1/x", f"wss://{'a' * 100}.example/wanspec/draft"],
)
async def test_what_a_lease_must_not_name_is_not_tried(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first", lambda found, clock: pytest.fail("it was"))
    with pytest.raises(Unreachable, match="may not be dialled"):
        await connection_seconds(landmark("a", address), SystemClock())
