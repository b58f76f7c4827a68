from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.speculation.hedging import ENOUGH, REMEMBERED, UNKNOWN_SECONDS, Gaps, Lead


def test_what_has_not_been_seen_takes_a_second() -> None:
    assert Gaps().usual == Lead().usual == UNKNOWN_SECONDS


@given(st.lists(st.floats(0.0, 100.0), min_size=ENOUGH, max_size=REMEMBERED))
def test_nineteen_of_twenty_gaps_are_no_longer_than_usual(seconds: list[float]) -> None:
    gaps = Gaps()
    for gap in seconds:
        gaps.measured(gap)
    within = sum(gap <= gaps.usual for gap in seconds)
    assert within >= 0.95 * len(seconds)
    below = sum(gap < gaps.usual for gap in seconds)
    assert below < 0.95 * len(seconds)


def test_few_gaps_only_raise_what_is_taken_for_usual() -> None:
    gaps = Gaps()
    gaps.measured(0.01)
    assert gaps.usual == UNKNOWN_SECONDS
    gaps.measured(3.0)
    assert gaps.usual == 3.0


def test_old_gaps_are_forgotten() -> None:
    gaps = Gaps()
    for _ in range(REMEMBERED):
        gaps.measured(9.0)
    for _ in range(REMEMBERED):
        gaps.measured(0.5)
    assert gaps.usual == 0.5


def test_a_lead_is_a_mean_that_follows() -> None:
    lead = Lead()
    lead.measured(0.2)
    assert lead.usual == pytest.approx(0.2)
    lead.measured(0.4)
    assert 0.2 < lead.usual < 0.4
    for _ in range(100):
        lead.measured(0.1)
    assert lead.usual == pytest.approx(0.1, rel=1e-3)
