from __future__ import annotations

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
