from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.simulation.pacing import DeviceTime, LastPass, Measured, Steps, WithCode, flat


def test_a_targets_curve_is_flat_up_to_so_many_nodes() -> None:
    cost = flat(0.030, 64)
    assert [cost.seconds(rows) for rows in (1, 8, 65, 130)] == pytest.approx([0.030, 0.030, 0.030, 0.060])


def test_a_drafters_curve_rises_with_every_batch() -> None:
    cost = Steps(0.005, 8)
    assert [cost.seconds(rows) for rows in (1, 8, 9, 16, 17)] == pytest.approx([0.005, 0.005, 0.010, 0.010, 0.015])


def test_between_measured_widths_lie_straight_lines() -> None:
    cost = Measured([(4, 0.01), (8, 0.02), (16, 0.02)])
    assert [cost.seconds(rows) for rows in (1, 4, 6, 8, 12, 16, 32)] == pytest.approx(
        [0.01, 0.01, 0.015, 0.02, 0.02, 0.02, 0.04]
    )


@pytest.mark.parametrize("points", [[], [(0, 0.1)], [(4, 0.1), (4, 0.2)], [(8, 0.1), (4, 0.2)]])
def test_points_must_ascend(points: list[tuple[int, float]]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Measured(points)


@pytest.mark.parametrize("seconds", [0.0, -0.1, float("nan"), float("inf")])
def test_every_pass_takes_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Measured([(1, seconds)])
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Steps(seconds, 8)


@pytest.mark.parametrize(
    ("faulty", "fault"),
    [({"speed": 0.0}, "speed must be above 0"), ({"jitter": 1.0}, "jitter must be"), ({"jitter": 0.1}, "randomness")],
)
def test_a_pace_that_is_none_is_refused(faulty: dict[str, float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        DeviceTime(Steps(1.0, 1), **faulty)  # type: ignore[arg-type]


@in_virtual_time
async def test_passes_of_one_device_follow_each_other() -> None:
    device, other = DeviceTime(Steps(1.0, 1)), DeviceTime(Steps(1.0, 1), speed=4.0)
    time = asyncio.get_running_loop().time
    ended = []

    async def take(name: str, device: DeviceTime, rows: int) -> None:
        await device.run(rows)
        ended.append((name, round(time(), 9)))

    await asyncio.gather(take("a", device, 2), take("b", device, 1), take("c", other, 2))
    assert ended == [("c", 0.5), ("a", 2.0), ("b", 3.0)]
    await asyncio.sleep(7)
    await take("d", device, 1)
    assert ended[-1] == ("d", 11.0)


@in_virtual_time
async def test_a_cancelled_pass_still_takes_its_time() -> None:
    device = DeviceTime(Steps(1.0, 1))
    first = asyncio.create_task(device.run(3))
    await asyncio.sleep(0.5)
    first.cancel()
    await device.run(1)
    assert asyncio.get_running_loop().time() == 4.0


@in_virtual_time
async def test_a_moment_is_the_same_by_whatever_sums_it_was_reached() -> None:
    """Thirty times 0.1 is not 3.0 in floating point."""
    device, once = DeviceTime(Steps(0.1, 1)), DeviceTime(Steps(3.0, 1))
    begun = asyncio.create_task(once.run(1))
    for _ in range(30):
        await device.run(1)
    await begun
    assert asyncio.get_running_loop().time() == 3.0


@in_virtual_time
async def test_jitter_spreads_passes_evenly_around_their_cost() -> None:
    time = asyncio.get_running_loop().time
    taken: list[list[float]] = []
    for seed in (1, 1, 2):
        device = DeviceTime(Steps(1.0, 1), jitter=0.2, rng=random.Random(seed))
        taken.append([])
        for _ in range(400):
            begun = time()
            await device.run(1)
            taken[-1].append(round(time() - begun, 6))
    assert taken[0] == taken[1] != taken[2]
    assert 0.8 <= min(taken[0]) < 0.82 and 1.18 < max(taken[0]) <= 1.2
    assert sum(taken[0]) / 400 == pytest.approx(1.0, abs=0.02)


@in_virtual_time
async def test_what_was_computed_since_a_pass_was_asked_for_makes_it_no_longer() -> None:
    device, loop = DeviceTime(Steps(1.0, 1)), asyncio.get_running_loop()
    asked_at = loop.time()
    await asyncio.sleep(0.25)
    await device.run(2, asked_at)
    assert (loop.time(), device.late) == (2.0, 0.0)
    asked_at = loop.time()
    await asyncio.sleep(1.5)
    await device.run(1, asked_at)
    assert (loop.time(), device.late) == (3.5, 0.5)


@in_virtual_time
async def test_code_makes_passes_longer_and_what_lies_between_them_is_known() -> None:
    device = DeviceTime(WithCode(Steps(1.0, 4), 0.25))
    await device.run(8)
    assert asyncio.get_running_loop().time() == 2.25 and not device.pauses
    await asyncio.sleep(0.5)
    await device.run(4)
    await device.run(4)
    assert list(device.pauses) == [0.5, 0.0]


@in_virtual_time
async def test_models_that_take_turns_on_one_machine_wait_since_either_ended() -> None:
    last = LastPass()
    target, drafter = (DeviceTime(Steps(seconds, 8), last=last) for seconds in (1.0, 0.25))
    await target.run(1)
    await asyncio.sleep(0.5)
    await drafter.run(1)
    await asyncio.sleep(0.125)
    await target.run(1)
    assert (list(target.pauses), list(drafter.pauses)) == ([0.125], [0.5])
