from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.scripted_models import ScriptedModel
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import PeerRefused
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.simulation.metering import MeteredModel, Work, traced
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.types import Segment


@in_virtual_time
async def test_passes_are_counted_as_they_begin_and_time_as_they_end() -> None:
    lines: list[bytes] = []
    inner = ScriptedModel(1, before_forward=lambda batch: asyncio.sleep(0.5))
    model = MeteredModel(inner, "node-0", Trace(LoopClock(), lines.append))
    batch = [Segment("a", 0, (), (1, 2)), Segment("b", 0, (), (1,), (5, 6), (-1, 0))]
    running = asyncio.create_task(model.forward(batch))
    await asyncio.sleep(0.1)
    assert (model.passes, model.segments, model.rows, model.busy, model.running) == (1, 2, 4, 0.0, 1)
    rows = await running
    assert [len(row) for row in rows] == [1, 3]
    assert (model.passes, model.busy, model.running) == (1, 0.5, 0)
    assert lines == [b'{"at":0.5,"event":"pass","machine":"node-0","begun":0.0,"segments":2,"rows":4}\n']
    await model.release("a")
    assert set(inner.caches) == {"b"}
    await model.close()
    assert inner.closed and model.info is inner.info


def test_work_is_the_difference_of_two_counts() -> None:
    assert Work(5, 6, 7, 1.5, 4, 3, 2, 1) - Work(1, 2, 3, 0.5, 4, 3, 2, 1) == Work(4, 4, 4, 1.0)


@in_virtual_time
async def test_a_traced_transport_is_one() -> None:
    lines: list[bytes] = []
    near, far = memory_transports(channel_binding=b"x")
    seen = traced(near, "node-0", "target", Trace(LoopClock(), lines.append))
    assert seen.channel_binding == b"x"
    await seen.send("text")
    await far.send(b"back")
    assert (await far.receive(), await seen.receive()) == ("text", b"back")
    await seen.close(4001, "enough")
    with pytest.raises(PeerRefused):
        await far.receive()
    with contextlib.suppress(PeerRefused):
        await far.close()
    assert lines == [
        b'{"at":0.0,"event":"frame","sender":"node-0","receiver":"target","bytes":4,"crc":999008199}\n',
        b'{"at":0.0,"event":"close","sender":"node-0","receiver":"target","code":4001,"reason":"enough"}\n',
    ]


def test_without_a_trace_the_transport_is_left_alone() -> None:
    near, _ = memory_transports()
    assert traced(near, "a", "b", None) is near
