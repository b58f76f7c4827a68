from __future__ import annotations

import pytest

from wanspec_p2p.cli.bench.bed import Usage, slope


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], 0.0),
        ([(1.0, 5.0)], 0.0),
        ([(1.0, 5.0), (1.0, 9.0)], 0.0),
        ([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)], 2.0),
        ([(0.0, 4.0), (1.0, 6.0), (2.0, 4.0)], 0.0),
    ],
)
def test_the_slope_is_that_of_a_straight_line(samples: list[tuple[float, float]], expected: float) -> None:
    assert slope(samples) == pytest.approx(expected)


def test_memory_alone_is_no_leak() -> None:
    before = Usage(tasks=9, files=12, rss=100)
    assert not Usage(9, 12, 500).exceeds(before)
    assert Usage(10, 12, 100).exceeds(before)
    assert Usage(9, 13, 100).exceeds(before)
