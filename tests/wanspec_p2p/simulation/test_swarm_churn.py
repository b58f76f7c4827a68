from __future__ import annotations

import pytest

from wanspec_p2p.simulation.swarm_churn import Churn


@pytest.mark.parametrize(
    "fields", [{"stay": 0.0}, {"away": -1.0}, {"stay": float("inf")}, {"polite": 1.5}, {"silent": -0.1}], ids=str
)
def test_a_bad_value_is_named(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must be"):
        Churn(**({"stay": 1.0, "away": 1.0} | fields))
