from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.links.patience import Patience


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_it_ends_when_it_has_listened_in_vain_to_the_moment() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(10.0) as patience:
            for _ in range(7):
                patience.listen()
                await asyncio.sleep(9.0)
            patience.listen()
            await asyncio.sleep(60.0)
    assert now() == 73.0


@in_virtual_time
async def test_silence_does_not_count_while_it_rests() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(10.0) as patience:
            patience.listen()
            await asyncio.sleep(9.0)
            patience.rest()
            await asyncio.sleep(100.0)
            patience.listen()
            await asyncio.sleep(60.0)
    assert now() == 119.0


@in_virtual_time
async def test_it_passes_on_what_ends_the_body_and_leaves_no_timer() -> None:
    with pytest.raises(ValueError, match="the body"):
        async with Patience(10.0) as patience:
            patience.listen()
            raise ValueError("the body")
    await asyncio.sleep(60.0)  # a timer that were left would find a time-out that has ended, and fail the loop


@in_virtual_time
async def test_one_timer_serves_any_number_of_frames() -> None:
    loop, timers = asyncio.get_running_loop(), 0
    call_at = loop.call_at

    def counted(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they come

    async with Patience(10.0) as patience:
        loop.call_at = counted  # type: ignore[method-assign]
        for _ in range(1000):
            patience.listen()
            patience.rest()
        del loop.call_at
    assert timers == 0
