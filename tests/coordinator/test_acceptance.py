from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coordinator.acceptance import (
    MAX_VOICES,
    VOICE_SECONDS,
    Acceptance,
    ModelPair,
    Positions,
    Voices,
    by_pair,
    day_of,
)
from wanspec_p2p.types import PeerId

PAIR = ModelPair("big", "b" * 64, "small", "d" * 64)


def measured(recent: tuple[int, int], before: tuple[int, int]) -> Acceptance:
    return Acceptance(PAIR, recent=Positions(*recent), before=Positions(*before))


def test_positions_add_up_over_days_and_depths() -> None:
    (figures,) = by_pair(
        [
            (PAIR, 1, True, Positions(10, 6)),
            (PAIR, 2, True, Positions(6, 3)),
            (PAIR, 1, False, Positions(5, 1)),
        ]
    )
    assert figures.by_depth == {1: Positions(15, 7), 2: Positions(6, 3)}
    assert (figures.recent, figures.before, figures.total) == (Positions(16, 9), Positions(5, 1), Positions(21, 10))
    assert figures.total.alpha == pytest.approx(10 / 21)
    assert Positions().alpha is None


def test_a_model_that_replaces_another_of_its_name_is_compared_with_it() -> None:
    successor, other = replace(PAIR, target_digest="c" * 64), replace(PAIR, drafter="other")
    figures = by_pair(
        [
            (PAIR, 1, False, Positions(5000, 2250)),
            (other, 1, False, Positions(4000, 4000)),
            (successor, 1, True, Positions(1000, 310)),
        ]
    )
    assert [entry.pair for entry in figures] == [PAIR, other, successor]
    assert figures[2].total == figures[2].recent == Positions(1000, 310)
    assert figures[2].before == Positions(5000, 2250)
    assert [entry.misfit is None for entry in figures] == [True, True, False]


def test_a_drafter_that_is_right_less_often_than_before_is_named() -> None:
    assert measured((1000, 310), (5000, 2250)).misfit == (
        "recent acceptance 0.31, before 0.45: this drafter may no longer fit its target; "
        "see docs/how-to/train-a-drafter.md"
    )


@pytest.mark.parametrize(
    ("recent", "before"),
    [
        ((0, 0), (0, 0)),
        ((1000, 450), (0, 0)),
        ((299, 0), (100_000, 90_000)),
        ((100_000, 0), (299, 299)),
        ((300, 120), (300, 135)),
        ((10**6, 430_000), (10**6, 450_000)),
        ((1000, 450), (5000, 1550)),
        ((1000, 0), (5000, 0)),
        ((1000, 1000), (5000, 5000)),
    ],
    ids=["nothing", "new", "few now", "few before", "within noise", "too small to matter", "better", "never", "always"],
)
def test_nothing_is_said_without_need(recent: tuple[int, int], before: tuple[int, int]) -> None:
    assert measured(recent, before).misfit is None


def test_an_unchanged_drafter_is_hardly_ever_named() -> None:
    rng = random.Random(1)
    draws = [tuple((n, sum(rng.random() < 0.45 for _ in range(n))) for n in (400, 4000)) for _ in range(200)]
    assert sum(measured(*draw).misfit is not None for draw in draws) <= 3


def test_days_are_those_of_utc() -> None:
    assert [day_of(seconds) for seconds in (0.0, 86399.9, 86400.0, 1_800_000_000.0)] == [0, 0, 1, 20833]


A, B = PeerId("a" * 32), PeerId("b" * 32)


def test_below_what_a_voice_counts_for_nothing_is_lost() -> None:
    voices = Voices(1000)
    for target, positions in ((A, Positions(400, 300)), (B, Positions(900, 1)), (A, Positions(600, 7))):
        voices.hear(target, positions, 0.0)
    assert voices.together(0.0) == Positions(1900, 308)


def test_a_voice_counts_for_so_much_and_what_it_says_later_counts_for_more() -> None:
    voices = Voices(1000)
    voices.hear(A, Positions(1_000_000, 0), 0.0)
    voices.hear(A, Positions(1000, 1000), 0.0)
    assert voices.together(0.0) == Positions(1000, 500)


def test_a_voice_that_says_nothing_more_is_not_heard_for_ever() -> None:
    voices = Voices(1000)
    voices.hear(A, Positions(10, 0), 0.0)
    voices.hear(B, Positions(10, 10), 1.0)
    voices.hear(A, Positions(), VOICE_SECONDS - 1.0)  # which is no word
    assert voices.together(VOICE_SECONDS) == Positions(10, 10)
    voices.hear(A, Positions(5, 5), VOICE_SECONDS)
    assert voices.together(VOICE_SECONDS) == Positions(15, 15)


def test_those_who_spoke_last_are_heard() -> None:
    voices = Voices(1000)
    for number in (*range(MAX_VOICES), 0, MAX_VOICES):  # 1 has been silent longest
        voices.hear(PeerId(f"{number:032}"), Positions(1 << number, 0), 0.0)
    assert voices.together(0.0).reached == sum(min(1 << n, 1000) for n in range(2, MAX_VOICES + 1)) + 2
