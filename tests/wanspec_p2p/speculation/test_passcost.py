"""What passes take by their width, learned as they come."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.speculation.passcost import PassCost


def bent(bend: int, flat: float, per_row: float) -> Callable[[int], float]:
    return lambda width: flat + per_row * max(0, width - bend)


def learned(curve: Callable[[int], float], widths: Iterable[int], *, noise: float = 0.0, seed: int = 0) -> PassCost:
    cost, draw = PassCost(), random.Random(seed)
    for width in widths:
        cost.measured(width, curve(width) * draw.uniform(1.0 - noise, 1.0 + noise))
    return cost


def some(low: int, high: int, count: int = 200) -> list[int]:
    draw = random.Random(1)
    return [draw.randint(low, high) for _ in range(count)]


def test_nothing_measured_costs_nothing() -> None:
    cost = PassCost()
    assert (cost.mean, cost.per_row(0), cost.seconds(100)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("bend", "flat", "per_row"), [(0, 0.1, 0.01), (8, 0.03, 0.003), (64, 0.03, 0.0005)])
def test_bend_and_slope_are_found_where_widths_vary(bend: int, flat: float, per_row: float, noise: float) -> None:
    curve = bent(bend, flat, per_row)
    cost = learned(curve, some(1, 3 * bend + 40), noise=noise)
    for width in (1, bend, bend + 10, 3 * bend + 40):
        assert cost.seconds(width) == pytest.approx(curve(width), rel=0.05 + noise / 2)
    assert cost.per_row(3 * bend) == pytest.approx(per_row, rel=0.05 + noise)


def test_a_bend_between_those_that_are_looked_for_is_taken_for_one_beside_it() -> None:
    curve = bent(40, 0.03, 0.0007)
    cost = learned(curve, some(10, 100))
    for width in (10, 40, 70, 100):
        assert cost.seconds(width) == pytest.approx(curve(width), rel=0.1)


def test_rows_below_the_bend_are_free_and_those_beyond_what_was_seen_are_not() -> None:
    cost = learned(bent(64, 0.03, 0.0005), some(10, 54))
    assert cost.per_row(0) == cost.per_row(54) == 0.0
    assert cost.seconds(54) == pytest.approx(0.03)
    assert cost.per_row(64) == 0.0, "nothing says that the bend is not a step further"
    assert cost.per_row(96) == pytest.approx(0.01 * 0.03), "not seen"


def test_what_was_found_beyond_the_bend_is_remembered_for_a_hundred_passes() -> None:
    cost = learned(bent(64, 0.03, 0.0005), [*some(10, 64), 96, *some(10, 64, 100)])
    assert cost.per_row(63) == 0.0
    assert cost.per_row(64) == pytest.approx(0.0005, rel=0.4)


def test_passes_of_one_width_say_nothing_of_a_row() -> None:
    """A little of a pass is what it is held to cost, either way, so that other widths are tried."""
    cost = learned(bent(0, 0.05, 0.0), [8] * 100)
    assert cost.mean == pytest.approx(0.05) == cost.seconds(8)
    assert cost.per_row(8) == cost.per_row(0) == pytest.approx(0.01 * 0.05)


def test_a_row_never_costs_less_than_nothing() -> None:
    cost = learned(lambda width: 0.1 - 0.001 * width, some(0, 64))
    assert all(cost.per_row(width) >= 0.0 for width in range(0, 600, 5))
    assert all(cost.seconds(width) >= 0.0 for width in range(0, 600, 5))


def test_what_passes_cost_long_ago_is_forgotten() -> None:
    cost = learned(bent(0, 1.0, 0.1), some(0, 64))
    for width in some(0, 64, 400):
        cost.measured(width, 0.02 + 0.001 * width)
    assert cost.per_row(30) == pytest.approx(0.001, rel=0.1)
    assert cost.mean < 0.1


@given(st.lists(st.tuples(st.integers(0, 512), st.floats(0.0, 10.0)), max_size=60))
def test_any_measurements_give_costs_that_rise_ever_faster(measured: list[tuple[int, float]]) -> None:
    """What the allotment of rows counts on."""
    cost = PassCost()
    for width, seconds in measured:
        cost.measured(width, seconds)
    assert 0.0 <= cost.mean <= 10.0
    rows = [cost.per_row(width) for width in range(512)]
    assert rows == sorted(rows) and rows[0] >= 0.0
    for width in range(0, 511, 10):
        assert cost.seconds(width + 1) - cost.seconds(width) == pytest.approx(cost.per_row(width), abs=1e-9)


@pytest.mark.parametrize("seconds", [0.02, 0.03, 0.05, 0.2])
def test_the_widest_pass_that_takes_no_longer(seconds: float) -> None:
    cost = learned(bent(16, 0.03, 0.001), some(1, 60))
    widest = cost.widest(seconds)
    assert widest == pytest.approx(max(0.0, 16 + (seconds - 0.03) / 0.001), rel=0.02, abs=1.0)
    assert PassCost().widest(seconds) == math.inf
