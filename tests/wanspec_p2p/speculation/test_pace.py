"""What passes cost and what they bring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.speculation.pace import MAX_PEERS, Knowledge, Pace, PassCost
from wanspec_p2p.types import PeerId


def line(cost: PassCost, start: float, per_row: float, widths: range, times: int = 1) -> None:
    for _ in range(times):
        for width in widths:
            cost.measured(width, start + per_row * width)


def test_nothing_measured_costs_nothing() -> None:
    cost = PassCost()
    assert (cost.known, cost.mean, cost.per_row) == (False, 0.0, 0.0)


@pytest.mark.parametrize(("start", "per_row"), [(0.030, 0.0), (0.030, 0.0002), (0.1, 0.01)])
def test_the_line_is_found_where_widths_vary(start: float, per_row: float) -> None:
    cost = PassCost()
    line(cost, start, per_row, range(0, 64, 7), times=5)
    assert cost.known
    assert cost.per_row == pytest.approx(per_row, rel=0.05, abs=0.02 * start / 64)


def test_passes_of_one_width_say_nothing_of_a_row() -> None:
    cost = PassCost()
    line(cost, 0.05, 0.0, range(8, 9), times=100)
    assert cost.mean == pytest.approx(0.05)
    assert cost.per_row == pytest.approx(0.01 * 0.05)


def test_a_row_never_costs_less_than_nothing() -> None:
    cost = PassCost()
    line(cost, 0.1, -0.001, range(0, 64, 7), times=5)
    assert cost.per_row == 0.0


def test_what_passes_cost_long_ago_is_forgotten() -> None:
    cost = PassCost()
    line(cost, 1.0, 0.1, range(0, 64, 7), times=20)
    line(cost, 0.02, 0.001, range(0, 64, 7), times=40)
    assert cost.per_row == pytest.approx(0.001, rel=0.05)
    assert cost.mean < 0.1


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0.0, 10.0)), max_size=60))
def test_any_measurements_give_a_price(measured: list[tuple[int, float]]) -> None:
    cost = PassCost()
    for width, seconds in measured:
        cost.measured(width, seconds)
    assert 0.0 <= cost.mean <= 10.0
    assert 0.0 <= cost.per_row <= 10.0


def test_the_pace_is_tokens_by_seconds() -> None:
    pace = Pace()
    assert pace.rate == 0.0
    for _ in range(3):
        pace.spent(0.02)
        pace.spent(0.03)
        pace.made(4)
        assert pace.rate == pytest.approx(80.0)


def test_time_that_has_brought_nothing_yet_slows_the_pace() -> None:
    pace = Pace()
    pace.spent(0.05)
    pace.made(4)
    pace.spent(0.05)
    assert pace.rate < 80.0


def test_a_pace_of_long_ago_is_forgotten() -> None:
    pace = Pace()
    for tokens in [8] * 50 + [1] * 100:
        pace.spent(0.1)
        pace.made(tokens)
    assert pace.rate == pytest.approx(10.0, rel=0.1)


def test_a_target_that_takes_no_time_has_no_pace() -> None:
    pace = Pace()
    pace.spent(0.0)
    pace.made(4)
    assert pace.rate == 0.0


def test_what_is_known_of_a_drafter_stays_with_its_name() -> None:
    knowledge = Knowledge()
    known = knowledge.reliability(PeerId("a"))
    assert knowledge.reliability(PeerId("a")) is known
    assert knowledge.reliability(PeerId("b")) is not known


def test_names_without_end_are_not_all_remembered() -> None:
    knowledge = Knowledge()
    first = knowledge.reliability(PeerId("n0"))
    for number in range(1, MAX_PEERS):
        knowledge.reliability(PeerId(f"n{number}"))
    assert knowledge.reliability(PeerId("n0")) is first
    second = knowledge.reliability(PeerId("n1"))
    knowledge.reliability(PeerId("one too many"))
    assert knowledge.reliability(PeerId("n1")) is second
    assert knowledge.reliability(PeerId("n0")) is not first
