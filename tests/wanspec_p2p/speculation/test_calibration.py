"""Chances on the wire, and chances learned from verdicts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.calibration import RANKS, RankTable, Reliability, chance, quantised
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX

CONFIDENCES = st.integers(0, CONFIDENCE_MAX)
SURE, UNSURE = 120, 10


def verdicts(rate: float, count: int) -> list[bool]:
    """So many, spread as evenly as the rate allows."""
    return [math.floor((i + 1) * rate) > math.floor(i * rate) for i in range(count)]


def judged(reliability: Reliability, confidence: int, rate: float, count: int) -> None:
    for right in verdicts(rate, count):
        reliability.decided(confidence, right)


def log_odds(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def test_every_value_on_the_wire_comes_back_as_itself() -> None:
    assert [quantised(chance(q)) for q in range(CONFIDENCE_MAX + 1)] == list(range(CONFIDENCE_MAX + 1))


def test_a_greater_value_is_a_greater_chance() -> None:
    chances = [chance(q) for q in range(CONFIDENCE_MAX + 1)]
    assert all(less < more for less, more in itertools.pairwise(chances))
    assert 0.0 < chances[0] < 0.01
    assert 0.99 < chances[-1] < 1.0


@given(probability=st.floats(0.003, 0.997))
def test_a_chance_loses_no_more_than_half_a_step(probability: float) -> None:
    step = log_odds(chance(1)) - log_odds(chance(0))
    assert abs(log_odds(chance(quantised(probability))) - log_odds(probability)) <= step / 2 + 1e-9


@given(first=st.floats(-1.0, 2.0), second=st.floats(-1.0, 2.0))
def test_rounding_never_turns_two_chances_round(first: float, second: float) -> None:
    less, more = sorted((first, second))
    assert 0 <= quantised(less) <= quantised(more) <= CONFIDENCE_MAX


@pytest.mark.parametrize(("probability", "on_the_wire"), [(0.0, 0), (1.0, CONFIDENCE_MAX), (math.nan, 0)])
def test_chances_that_have_no_odds_are_the_ends(probability: float, on_the_wire: int) -> None:
    assert quantised(probability) == on_the_wire


def test_a_table_that_knows_nothing_expects_surer_rows_to_be_righter() -> None:
    table = RankTable()
    firsts = [table.chances(sureness)[0] for sureness in range(0, CONFIDENCE_MAX + 1, 8)]
    assert firsts == sorted(set(firsts))
    assert list(table.typical()) == sorted(table.typical(), reverse=True)


def test_a_table_learns_how_often_each_rank_was_right_for_each_sureness() -> None:
    table = RankTable()
    unsure = [0, 1, None, 0, 2, None, 1, 0, 3, 7]  # candidate number seven is none that is drafted
    sure = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    for _ in range(60):
        for rank in unsure:
            table.learn(UNSURE, rank)
        for rank in sure:
            table.learn(SURE, rank)
    assert table.chances(UNSURE) == pytest.approx((0.3, 0.2, 0.1, 0.1), abs=0.02)
    assert table.chances(SURE) == pytest.approx((0.9, 0.1, 0.0, 0.0), abs=0.02)
    assert table.typical() == pytest.approx((0.6, 0.15, 0.05, 0.05), abs=0.02)


def test_a_sureness_not_seen_yet_leans_on_all_others_together() -> None:
    table = RankTable()
    prior = table.chances(UNSURE)
    for _ in range(200):
        table.learn(SURE, 1)
    assert table.chances(UNSURE)[1] > 0.9 > prior[1]
    table.learn(UNSURE, 0)
    assert table.chances(UNSURE)[0] > 0.1, "one of its own weighs more than one of two hundred"


def test_a_table_follows_a_law_that_changes() -> None:
    table = RankTable()
    for rank in (0, 2):
        for _ in range(1500):
            table.learn(SURE, rank)
        assert table.chances(SURE)[rank] > 0.9


@settings(max_examples=60, deadline=None)
@given(
    seen=st.lists(st.tuples(CONFIDENCES, st.none() | st.integers(0, RANKS + 1)), max_size=60),
    sureness=CONFIDENCES,
)
def test_chances_of_one_place_never_add_up_to_more_than_one(seen: list[tuple[int, int | None]], sureness: int) -> None:
    table = RankTable()
    for confidence, rank in seen:
        table.learn(confidence, rank)
    for chances in (table.chances(sureness), table.typical()):
        assert len(chances) == RANKS
        assert all(0.0 < c < 1.0 for c in chances)
        assert sum(chances) < 1.0


def test_a_drafter_nobody_knows_is_believed_what_it_says() -> None:
    believed = [Reliability().believed(q) for q in range(CONFIDENCE_MAX + 1)]
    assert believed == pytest.approx([chance(q) for q in range(CONFIDENCE_MAX + 1)])


def test_a_liar_that_claims_certainty_is_soon_believed_next_to_nothing() -> None:
    liar = Reliability()
    judged(liar, CONFIDENCE_MAX, 0.0, 40)
    assert liar.believed(CONFIDENCE_MAX) < 0.02
    assert liar.believed(CONFIDENCE_MAX - 30) < 0.05, "nor by claiming a little less"


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_an_honest_drafter_is_believed_close_to_its_rate(rate: float) -> None:
    honest = Reliability()
    for count in (40, 300):
        judged(honest, quantised(rate), rate, count)
        assert honest.believed(quantised(rate)) == pytest.approx(rate, abs=0.1 if count < 300 else 0.04)


def test_belief_goes_to_what_comes_true_and_not_to_what_is_said() -> None:
    modest, boaster = Reliability(), Reliability()
    judged(modest, quantised(0.2), 0.9, 200)
    judged(boaster, quantised(0.9), 0.2, 200)
    assert modest.believed(quantised(0.2)) == pytest.approx(0.9, abs=0.1)
    assert boaster.believed(quantised(0.9)) == pytest.approx(0.2, abs=0.1)


def test_every_decision_moves_belief_at_once() -> None:
    drafter = Reliability()
    for _ in range(5):
        before = drafter.believed(SURE)
        drafter.decided(SURE, False)
        assert drafter.believed(SURE) < before


def test_small_truths_do_not_buy_belief_in_a_great_lie() -> None:
    liar = Reliability()
    for _ in range(30):
        judged(liar, quantised(0.1), 0.1, 10)
        judged(liar, CONFIDENCE_MAX, 0.0, 2)
    assert liar.believed(CONFIDENCE_MAX) < 0.1
    assert liar.believed(quantised(0.1)) == pytest.approx(0.1, abs=0.05)


def test_a_drafter_that_mends_its_ways_is_believed_again() -> None:
    drafter = Reliability()
    judged(drafter, quantised(0.9), 0.0, 200)
    judged(drafter, quantised(0.9), 0.9, 200)
    assert drafter.believed(quantised(0.9)) > 0.8


@settings(max_examples=60, deadline=None)
@given(decisions=st.lists(st.tuples(CONFIDENCES, st.booleans()), max_size=80), confidence=CONFIDENCES)
def test_belief_is_a_chance_whatever_happened(decisions: list[tuple[int, bool]], confidence: int) -> None:
    reliability = Reliability()
    for said, right in decisions:
        reliability.decided(said, right)
    assert 0.0 < reliability.believed(confidence) < 1.0
