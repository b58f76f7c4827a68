from __future__ import annotations

import pytest

from wanspec_p2p.simulation.swarm_report import Waits


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], Waits(0)),
        ([2.0], Waits(1, 2.0, 2.0, 2.0)),
        ([float(n) for n in range(1, 101)], Waits(100, 50.5, 95.0, 100.0)),
    ],
)
def test_waits(seconds: list[float], expected: Waits) -> None:
    assert Waits.of(seconds[::-1]) == expected
