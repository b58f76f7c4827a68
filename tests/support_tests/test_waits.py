from __future__ import annotations

import asyncio

from tests.support.waits import Waits


async def test_a_wait_lasts_until_it_is_ended() -> None:
    waits = Waits()
    first, second = asyncio.create_task(waits(30.0)), asyncio.create_task(waits(1.0))
    await waits.begun()
    await asyncio.sleep(0)
    assert not first.done()
    await waits.end()
    async with asyncio.timeout(5):
        await asyncio.gather(first, second)
    assert waits.asked == [30.0, 1.0]


async def test_a_cancelled_wait_is_forgotten() -> None:
    waits = Waits()
    task = asyncio.create_task(waits(30.0))
    await waits.begun()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    later = asyncio.create_task(waits(1.0))
    await waits.end()
    async with asyncio.timeout(5):
        await later
