from __future__ import annotations

import pytest

from wanspec_p2p.cli.bench.holdings import Holdings, Usage, Watched, slope


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


def test_growth_is_told_without_the_climb_to_the_load() -> None:
    held = Holdings(before={"target": Usage(9, 7, 1)}, after={"target": Usage(9, 8, 1)})
    climb, then = [(0.0, 0.0), (1.0, 9e9)], [(float(at), 9e9 + at * 2**20 / 3600.0) for at in range(2, 6)]
    held.grew(Watched(rss={"target": climb + then}))
    assert held.leaked
    assert held.report() == {"rss_mib_per_hour_target": 1.0, "tasks_target": "9 → 9", "files_target": "7 → 8"}
