"""What a drafter is worth, by what it brought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.speculation.contribution import (
    CROSSED_FOR_OWN,
    FRUITLESS_ROUNDS,
    FRUITLESS_SECONDS,
    LEAST_USUAL,
    MEAN_LIFE_SECONDS,
    MOST_CROSSED,
    Contribution,
    Originality,
)

ROUND = 0.03


def seen(*tokens: int, seconds: float = ROUND) -> Contribution:
    contribution = Contribution()
    for number, own in enumerate(tokens):
        contribution.round(own, number * seconds)
    return contribution


def test_who_was_never_seen_is_expected_to_bring_what_is_usual() -> None:
    assert Contribution().expected(2.5, 1e9) == 2.5


def test_what_it_brought_counts_more_with_every_round() -> None:
    expected = [seen(*[3] * rounds).expected(1.0, rounds * ROUND) for rounds in (1, 8, 64)]
    assert expected == sorted(expected)
    assert 1.0 < expected[0] < 1.3 and 2.4 < expected[-1] < 3.0


def test_what_was_seen_long_ago_is_forgotten() -> None:
    contribution = seen(*[0] * 64)
    soon, late, very_late = (contribution.expected(2.0, at) for at in (2.0, MEAN_LIFE_SECONDS, 10 * MEAN_LIFE_SECONDS))
    assert soon < 0.5 < late < 1.5 < very_late <= 2.0


def test_the_clock_of_a_session_may_be_behind() -> None:
    contribution = seen(*[1] * 8)
    assert contribution.expected(1.0, -5.0) == pytest.approx(1.0)


def test_what_is_usual_is_the_mean_and_never_next_to_nothing() -> None:
    assert Contribution().usual == 1.0
    assert seen(1, 3, 1, 3, 1, 3).usual == pytest.approx(2.0, abs=0.1)
    assert seen(*[0] * 50).usual == LEAST_USUAL


def test_who_drafts_for_long_and_for_nothing_is_fruitless() -> None:
    needed = round(FRUITLESS_SECONDS / FRUITLESS_ROUNDS * 1.01, 6)
    assert not seen(*[0] * (FRUITLESS_ROUNDS - 1), seconds=1.0).fruitless(1e6), "too few rounds"
    assert not seen(*[0] * FRUITLESS_ROUNDS).fruitless(FRUITLESS_SECONDS - 1.0), "too short a time"
    rounds = [0] * (FRUITLESS_ROUNDS + 1)
    assert seen(*rounds, seconds=needed).fruitless(FRUITLESS_ROUNDS * needed)
    assert not seen(*rounds, 1, seconds=needed).fruitless(1e6), "one token is enough"


@given(rounds=st.lists(st.tuples(st.integers(0, 64), st.floats(0.0, 1e4)), max_size=60), usual=st.floats(0.0, 64.0))
def test_what_is_expected_lies_between_what_is_usual_and_what_was_seen(
    rounds: list[tuple[int, float]], usual: float
) -> None:
    contribution, at = Contribution(), 0.0
    for tokens, after in rounds:
        at += after
        contribution.round(tokens, at)
    known = [usual, *(tokens for tokens, _ in rounds)]
    assert min(known) - 1e-9 <= contribution.expected(usual, at) <= max(known) + 1e-9


def test_who_only_brings_what_it_was_told_of_is_in_doubt_after_a_while() -> None:
    originality = Originality()
    for crossed in range(MOST_CROSSED):
        assert not originality.doubtful, crossed
        originality.brought(0, 1)
    assert originality.doubtful


def test_who_brings_something_of_its_own_is_not_in_doubt() -> None:
    originality = Originality()
    for _ in range(10 * MOST_CROSSED):
        originality.brought(1, CROSSED_FOR_OWN)
        assert not originality.doubtful
    originality.brought(1, MOST_CROSSED + CROSSED_FOR_OWN)
    assert originality.doubtful
    originality.brought(1, 0)
    assert not originality.doubtful
