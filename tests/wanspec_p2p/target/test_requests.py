from __future__ import annotations

import asyncio

import pytest

from tests.support.desk_bench import Bench
from tests.support.target_kit import request, target_alone
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import RemoteProtocolError
from wanspec_p2p.target.requests import KEPT_SECONDS
from wanspec_p2p.types import FinishReason, Sampling


@in_virtual_time
async def test_a_name_that_is_taken_is_the_coordinators_fault() -> None:
    bench = Bench()
    bench.desk.generate(request())
    with pytest.raises(RemoteProtocolError, match="of this name"):
        bench.desk.generate(request())
    assert (await bench.said.finished()).usage.completion_tokens == 12
    await asyncio.sleep(0)
    assert len(await bench.answer(request("r2"))) == 12


@in_virtual_time
async def test_a_cancelled_request_says_nothing_more_and_leaves_nothing() -> None:
    bench = Bench()
    bench.desk.generate(request())
    bench.desk.generate(request("queued-1"))
    await bench.said.until(lambda: bool(bench.said.tokens("r1")))
    bench.gate.clear()
    await asyncio.sleep(0.5)
    said = list(bench.said.all)
    for name in ("r1", "queued-1", "never heard of"):
        bench.desk.cancel(name)
    await asyncio.sleep(5)
    assert bench.desk.active > 0, "a pass cannot be interrupted"
    bench.gate.set()
    await bench.desk.idle(5)
    await asyncio.sleep(0)
    bench.nothing_is_left()
    assert bench.said.all == said


@in_virtual_time
async def test_all_are_cancelled_at_once_and_waited_for() -> None:
    bench = Bench(slots=1, queue=8)
    for number in range(4):
        bench.desk.generate(request(f"r{number}"))
    await bench.said.until(lambda: bool(bench.said.tokens("r0")))
    await bench.desk.cancel_all()
    bench.nothing_is_left()
    await bench.desk.cancel_all()
    assert bench.receipts, "what a node did for an answer that nobody heard the end of counts all the same"


@in_virtual_time
async def test_what_is_cancelled_need_not_be_waited_for() -> None:
    bench = Bench(slots=2)
    bench.gate.clear()
    bench.desk.generate(request("unheard"))
    bench.desk.unhear()
    bench.desk.generate(request("heard", ids=(4,)))
    await asyncio.sleep(0.5)
    await bench.desk.cancel_all(1)
    assert (bench.desk.active, bench.desk.unheard) == (1, 1), "a pass cannot be interrupted"
    bench.gate.set()
    await bench.desk.cancel_all()
    bench.nothing_is_left()
    assert bench.desk.unheard == 0


@in_virtual_time
async def test_idle_does_not_wait_for_ever() -> None:
    bench = Bench()
    await bench.desk.idle(5)
    bench.gate.clear()
    bench.desk.generate(request())
    await bench.desk.idle(5)
    assert bench.desk.active == 1
    bench.gate.set()
    await bench.desk.idle(60)
    assert bench.desk.active == 0


@in_virtual_time
async def test_what_nobody_hears_goes_on_and_is_said_to_who_asks_again() -> None:
    bench = Bench()
    bench.desk.generate(request("before", max_tokens=6))
    await bench.said.until(lambda: bool(bench.said.tokens("before")))
    had = bench.said.tokens("before")
    bench.desk.unhear()
    assert (bench.desk.active, bench.desk.unheard) == (0, 1)
    await asyncio.sleep(8)  # it has come to its end, and has let go of its slot
    assert bench.engine.serving == 0
    assert bench.said.tokens("before") == had
    bench.desk.generate(request("after", max_tokens=6, committed=tuple(had)))
    end = await bench.said.finished("after")
    assert end.reason is FinishReason.LENGTH
    assert had + bench.said.tokens("after") == target_alone(bench.model, (1, 2, 3), 6, Sampling())
    assert bench.desk.unheard == 0
    bench.nothing_is_left()
    await asyncio.sleep(2 * KEPT_SECONDS)  # its deadline is off


@in_virtual_time
async def test_who_asks_again_may_cancel_under_the_new_name() -> None:
    bench = Bench()
    bench.desk.generate(request("before"))
    await bench.said.until(lambda: bool(bench.said.tokens("before")))
    bench.desk.unhear()
    bench.desk.generate(request("after", committed=tuple(bench.said.tokens("before"))))
    assert bench.desk.active == 1
    bench.desk.cancel("before")  # nothing is called so any more
    assert bench.desk.active == 1
    bench.desk.cancel("after")
    await asyncio.sleep(3)
    bench.nothing_is_left()


@in_virtual_time
async def test_what_nobody_asks_for_again_ends() -> None:
    bench = Bench()
    bench.model.before_forward = lambda batch: asyncio.sleep(4)
    for name in ("r1", "r2", "r3"):  # the third waits for a slot
        bench.desk.generate(request(name, ids=(1, 2, 3)))
    await asyncio.sleep(1)
    bench.desk.unhear()
    await asyncio.sleep(KEPT_SECONDS - 0.5)
    assert bench.desk.unheard == 3
    await asyncio.sleep(5)
    assert bench.desk.unheard == 0
    bench.nothing_is_left()


@in_virtual_time
async def test_another_request_does_not_find_it() -> None:
    bench = Bench()
    bench.desk.generate(request("before"))
    await asyncio.sleep(2.5)
    bench.desk.unhear()
    bench.desk.generate(request("another", ids=(3, 2, 1)))
    assert (bench.desk.active, bench.desk.unheard) == (1, 1)
    await bench.desk.cancel_all()
    bench.nothing_is_left()
    assert bench.desk.unheard == 0
