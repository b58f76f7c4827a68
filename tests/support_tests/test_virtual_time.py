from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import LoopClock, VirtualTimeLoop, in_virtual_time
from wanspec_p2p.simulation.loop import VirtualTimeError


@in_virtual_time
async def test_an_hour_passes_in_order() -> None:
    clock, seen = LoopClock(), []

    async def note(after: float) -> None:
        await asyncio.sleep(after)
        seen.append((after, clock.monotonic()))

    await asyncio.gather(note(3000.0), note(0.5), note(60.0))
    assert [after for after, _ in seen] == [0.5, 60.0, 3000.0]
    assert all(at == pytest.approx(after) for after, at in seen)
    assert clock.wall() - clock.monotonic() == 1_800_000_000.0


def test_a_deadlock_is_an_error_and_no_hang() -> None:
    with pytest.raises(RuntimeError, match="deadlock"):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.get_loop().run_until_complete(asyncio.Event().wait())


def test_a_task_left_behind_is_a_failure() -> None:
    @in_virtual_time
    async def careless() -> None:
        careless.task = asyncio.create_task(asyncio.sleep(99))  # type: ignore[attr-defined]  # keeps a reference

    with pytest.raises(VirtualTimeError, match="left behind"):
        careless()
