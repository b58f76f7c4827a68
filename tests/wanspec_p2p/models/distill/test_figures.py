"""Worked by hand: each answer is a list of ranks, 1 for right and 0 for none of the first four."""

from __future__ import annotations

import pytest

from wanspec_p2p.models.distill.figures import (
    LONGEST,
    Answer,
    Costs,
    Figures,
    accepted_per_round,
    expected_speedup,
    measure,
)


def answer(tokens: int, category: str = "all") -> Answer:
    return Answer(category, (1,), tuple(range(tokens)), 0.0, bytes(16))


def figures(*ranks: list[int]) -> Figures:
    return measure([answer(len(own)) for own in ranks], ranks)


def test_shares_of_ranks() -> None:
    group = figures([1, 2, 3, 4, 0], [1, 1, 2, 0, 0]).overall
    assert (group.positions, group.alpha) == (10, 0.3)
    assert group.ranks == pytest.approx((0.3, 0.2, 0.1, 0.1, 0.3))


@pytest.mark.parametrize(
    ("ranks", "length", "accepted"),
    [
        # Rounds settle positions 0-2 (two accepted), 3 (none), 4-5 (one; the last token needs no draft).
        ([1, 1, 2, 0, 1, 1], 7, (2 + 0 + 1) / 3),
        # A chain of one: 0-1, 2, 3, 4-5.
        ([1, 1, 2, 0, 1, 1], 1, (1 + 0 + 0 + 1) / 4),
        ([1, 1, 1, 1], 7, 3.0),  # all right: one round, whose pass brings the fourth
        ([1, 1, 1, 1], 2, 1.0),  # two and the pass's own, then the last alone: (2 + 0) / 2
        ([1] * 9, 7, 3.5),  # seven and one, then nothing left to draft for: (7 + 0) / 2
        ([0, 0, 0], 7, 0.0),
        ([1], 7, 0.0),  # a single token needs no draft
        ([], 7, 0.0),
    ],
)
def test_accepted_per_round(ranks: list[int], length: int, accepted: float) -> None:
    assert accepted_per_round([ranks], length) == pytest.approx(accepted)


def test_rounds_of_several_answers_count_alike() -> None:
    assert accepted_per_round([[1, 1, 1], [0]], 7) == pytest.approx((2 + 0) / 2)


def test_depths_are_counted_where_all_before_were_right() -> None:
    # Rounds: [1, 1, 2] reaches depths 1-3 and is right at 1-2; [0] reaches 1; [1, 1]: depth 1, right.
    assert figures([1, 1, 2, 0, 1, 1]).by_depth == pytest.approx((2 / 3, 1.0, 0.0, 0, 0, 0, 0))


def test_what_was_never_reached_is_nothing() -> None:
    assert figures([0, 0]).by_depth == (0.0,) * LONGEST
    nothing = figures([])
    assert (nothing.overall.positions, nothing.overall.alpha) == (0, 0.0)
    assert nothing.accepted_per_round == nothing.by_depth == (0.0,) * LONGEST
    assert nothing.by_category == nothing.by_position == {}


def test_groups_by_category_and_position() -> None:
    both = measure([answer(40, "a"), answer(20, "b")], [[1] * 16 + [0] * 24, [0] * 20])
    assert {name: (group.positions, group.alpha) for name, group in both.by_category.items()} == {
        "a": (40, 0.4),
        "b": (20, 0.0),
    }
    assert {name: (group.positions, group.alpha) for name, group in both.by_position.items()} == {
        "0–15": (32, 0.5),
        "16–31": (20, 0.0),
        "32–63": (8, 0.0),
    }


def speed(accepted: list[float], costs: Costs) -> tuple[float, int, float]:
    empty = figures([])
    return expected_speedup(Figures(empty.overall, tuple(accepted), {}, {}, ()), costs)


def test_the_best_chain_pays_for_its_drafts() -> None:
    # Two drafts: 1.9 tokens in 1 + 0.1 · 2/7 + 0.2; one: 1.5 in 1 + 0.1/7 + 0.1; seven: 2.1 in 1.8.
    accepted = [0.5, 0.9, 1.0, 1.05, 1.08, 1.09, 1.1]
    beside, length, remote = speed(accepted, Costs(draft=0.1, target=1.0, verify=1.1))
    assert (beside, length) == (pytest.approx(1.9 / (1 + 0.2 / 7 + 0.2)), 2)
    assert remote == pytest.approx(2.1 / 1.1)


def test_a_drafter_that_is_never_right_or_too_slow_is_left_out() -> None:
    assert speed([0.0] * 7, Costs(0.01, 1.0, 1.2)) == (1.0, 0, pytest.approx(1 / 1.2))
    assert speed([0.9] * 7, Costs(1.0, 1.0, 1.0))[:2] == (1.0, 0)


def test_a_pass_that_was_measured_as_cheaper_than_a_smaller_one_is_not_believed() -> None:
    assert speed([0.0] * 7, Costs(draft=0.0, target=2.0, verify=1.0)) == (1.0, 0, 1.0)


def test_all_right_at_no_cost_is_eight_fold() -> None:
    beside, length, remote = speed([float(k) for k in range(1, 8)], Costs(0.0, 1.0, 1.0))
    assert (beside, length, remote) == (8.0, 7, 8.0)
