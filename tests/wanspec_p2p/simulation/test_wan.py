from __future__ import annotations

import random
import statistics

import pytest

from wanspec_p2p.links.memory import Path
from wanspec_p2p.simulation.wan import Wan


def test_half_the_round_trip_each_way() -> None:
    assert Wan(rtt=0.07, jitter=0.2, loss=0.01, bandwidth=1e6).path() == Path(
        delay=0.035, jitter=0.007000000000000001, loss=0.01, recovery=0.2, bandwidth=1e6
    )


@pytest.mark.parametrize(("rtt", "given", "recovery"), [(0.05, None, 0.2), (0.15, None, 0.3), (0.15, 0.4, 0.4)])
def test_a_loss_holds_a_direction_back_for_200_ms_or_two_round_trips(
    rtt: float, given: float | None, recovery: float
) -> None:
    assert Wan(rtt=rtt, loss=0.01, recovery=given).path().recovery == pytest.approx(recovery)


@pytest.mark.parametrize(
    "fields",
    [{"rtt": -0.001}, {"rtt": float("nan")}, {"jitter": -1.0}, {"loss": 1.0}, {"recovery": -1.0}, {"bandwidth": 0.0}],
    ids=str,
)
def test_a_bad_value_is_named(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must be"):
        Wan(**fields)


def test_an_observed_way_has_the_median_and_the_mean_distance_from_it() -> None:
    path = Wan.observed(0.06, 0.004, loss=0.01, bandwidth=1e6).path()
    rng = random.Random(1)
    trips = [2 * path.delay + path.jitter * (rng.random() + rng.random()) for _ in range(20_000)]
    assert statistics.median(trips) == pytest.approx(0.06, abs=2e-4)
    assert statistics.fmean(abs(trip - 0.06) for trip in trips) == pytest.approx(0.004, abs=2e-4)
    assert (path.loss, path.bandwidth) == (0.01, 1e6)


def test_an_observed_way_that_cannot_spread_so_far_keeps_its_median() -> None:
    wan = Wan.observed(0.1, 0.09)
    assert wan.rtt == pytest.approx(0.025) and wan.rtt * (1 + wan.jitter / 2) == pytest.approx(0.1)
    assert Wan.observed(0.0, 0.5) == Wan()


@pytest.mark.parametrize(("median", "deviation"), [(-1.0, 0.0), (0.1, float("nan"))])
def test_what_cannot_have_been_observed_is_named(median: float, deviation: float) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        Wan.observed(median, deviation)
