from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.speculation.hedging import (
    ENOUGH,
    ENOUGH_LEADS,
    LEAST_DOUBTED,
    LED_NODES,
    REMEMBERED,
    UNKNOWN_SECONDS,
    Gaps,
    Lead,
)
from wanspec_p2p.types import PeerId

A, B = PeerId("a" * 32), PeerId("b" * 32)


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
    lead.measured(A, 0.2)
    assert lead.usual == pytest.approx(0.2)
    lead.measured(A, 0.4)
    assert 0.2 < lead.usual < 0.4
    for _ in range(100):
        lead.measured(A, 0.1)
    assert lead.usual == pytest.approx(0.1, rel=1e-3)


def test_one_node_of_two_that_is_slow_on_purpose_does_not_decide_for_the_other() -> None:
    lead = Lead()
    for _ in range(200):
        lead.measured(A, 0.1)
        lead.measured(B, 25.0)
    assert lead.usual < LEAST_DOUBTED


def test_what_all_nodes_take_is_believed_however_long_it_is() -> None:
    lead = Lead()
    for _ in range(100):
        lead.measured(A, 20.0)
        lead.measured(B, 30.0)
    assert lead.usual == pytest.approx(25.0, rel=0.1)


def test_the_first_leads_are_not_doubted() -> None:
    lead = Lead()
    lead.measured(A, 0.1)
    for _ in range(ENOUGH_LEADS - 1):
        lead.measured(B, 9.0)
    plain = lead.usual
    assert plain > 7.0
    lead.measured(B, 9.0)
    assert lead.usual < plain


def test_the_last_leads_of_so_many_nodes_are_remembered() -> None:
    lead = Lead()
    for number in range(10 * LED_NODES):
        lead.measured(PeerId(f"{number:032}"), 0.1)
    assert len(lead._last) == LED_NODES
