"""Who has how many rows of a pass."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.allotment import Place, Wish, draft_places, verification_rows
from wanspec_p2p.speculation.passcost import PassCost

FLAT, BEND, PER_ROW = 0.030, 16, 0.002
DRAFT = 0.005


def cost(flat: float = FLAT, bend: int = BEND, per_row: float = PER_ROW) -> PassCost:
    found = PassCost()
    for _ in range(10):
        for width in range(0, 4 * bend + 8, 3):
            found.measured(width, flat + per_row * max(0, width - bend))
    return found


VERIFICATION, DRAFT_PASS = cost(), cost(DRAFT, 8, 0.001)
PACE = 100.0
"""A row beyond the bend costs 0.2 tokens at it, a draft pass 0.5."""


def rows(*sessions: list[float], pace: float = PACE, most: int = 500) -> list[int]:
    return verification_rows([Wish(chances, 63) for chances in sessions], VERIFICATION, pace, most)


def places(*wishes: Wish, pace: float = PACE, most: int = 500, retry: bool = False) -> list[int]:
    return draft_places(wishes, VERIFICATION, DRAFT_PASS, pace, most, retry=retry)


def worth(*chances: float, nodes: int = 1) -> Place:
    return Place(tuple(range(nodes)), chances)


def test_rows_below_the_bend_are_free() -> None:
    assert rows([0.5, 0.01, 0.001]) == [3]
    assert rows([0.01] * 63) == [BEND - 1], "the root has a row too"


def test_beyond_the_bend_a_candidate_must_be_worth_its_row() -> None:
    assert rows([0.9] * 10 + [0.3] * 10 + [0.1] * 20) == [20]
    assert rows([0.9] * 10 + [0.3] * 10 + [0.1] * 20, pace=200.0) == [15], "time is worth more: only the free ones"


def test_the_best_of_all_sessions_are_taken_whoever_they_belong_to() -> None:
    assert rows([0.9] * 12, [0.8] * 2 + [0.15] * 9, []) == [12, 2, 0]
    assert rows([0.15] * 9, [0.15] * 9) == [9, 5], "of equals those of whoever asked first"


def test_where_rows_are_scarce_who_has_made_less_comes_first() -> None:
    """But never with a candidate that is not worth its row."""
    chances = [0.15] * 9
    fast, slow = Wish(chances, 63, progress=4.0), Wish([*chances, 0.1], 63, progress=2.0)
    assert verification_rows([fast, slow], VERIFICATION, PACE, 500) == [4, 10]
    paying = Wish([0.5] * 12, 63, progress=4.0)
    assert verification_rows([paying, Wish(chances, 63)], VERIFICATION, PACE, 500) == [5, 9]
    every = Wish([0.5] * 20, 63, progress=4.0)
    assert verification_rows([every, Wish(chances, 63)], VERIFICATION, PACE, 500) == [20, 0]


def test_no_more_than_there_is_room_for() -> None:
    assert rows([0.9, 0.7, 0.5], [0.8, 0.6], most=3) == [2, 1]
    assert rows() == []


def test_a_draft_pass_must_bring_more_than_its_time_is_worth() -> None:
    assert places(Wish(most=63, places=[worth(0.6)])) == [1]
    assert places(Wish(most=63, places=[worth(0.4)])) == [0]
    assert places(Wish(most=63, places=[worth(0.4)]), Wish(most=63, places=[worth(0.4)])) == [1, 1], "for both"
    assert places(Wish(most=63, places=[worth(0.6)], dearer=0.25)) == [0], "held dearer than it is"
    shared = [Wish(most=63, places=[worth(0.32)], dearer=dearer) for dearer in (0.3, 0.0)]
    assert places(*shared) == [1, 1], "a pass of several sessions is as dear as they hold it to be in the mean"
    assert places(Wish(), Wish()) == [0, 0]
    assert places() == []


def test_what_the_verification_has_no_room_for_brings_nothing() -> None:
    full = Wish([0.9, 0.8, 0.7], most=3, places=[worth(0.6, 0.5)])
    assert places(full) == [0]
    assert places(Wish([0.9, 0.1, 0.1], most=3, places=[worth(0.6, 0.5)])) == [1]


def test_beyond_the_bend_of_the_verification_what_is_drafted_must_be_worth_its_rows_there() -> None:
    waiting = [Wish() for _ in range(BEND)]
    assert places(Wish(most=63, places=[worth(0.6)]), *waiting)[0] == 0
    assert places(Wish(most=63, places=[worth(0.75)]), *waiting)[0] == 1


def test_places_that_are_not_worth_their_row_of_the_draft_are_left_out() -> None:
    every = Wish(most=63, places=[worth(0.2)] * 8 + [worth(0.05)] * 8)
    assert places(every) == [8], "the others are beyond its bend, where a row costs 0.1"


def test_places_of_one_session_are_taken_in_the_order_it_named_them() -> None:
    """A later one may need what an earlier one runs."""
    assert places(Wish(most=63, places=[worth(0.3, nodes=7), worth(0.4)])) == [2]
    assert places(Wish(most=63, places=[worth(0.4, nodes=7), worth(0.6)]), most=7) == [0]


def test_what_is_held_to_passes_has_them_whatever_they_bring() -> None:
    held = Wish(most=63, places=[worth(0.0)] * 3, held=True)
    assert places(held, Wish(most=63, places=[worth(0.9)])) == [3, 0]
    assert places(Wish(held=True), Wish(most=63, places=[worth(0.9)])) == [0, 0]


def test_a_pass_that_is_run_to_see_what_it_takes_must_bring_something() -> None:
    assert places(Wish(most=63, places=[worth(0.05)]), retry=True) == [1]
    assert places(Wish(most=63, places=[worth(0.0)]), retry=True) == [0]
    assert places(Wish(most=63), retry=True) == [0]


CHANCES = st.lists(st.sampled_from([0.9, 0.5, 0.3, 0.21, 0.19, 0.1, 0.01]), max_size=12).map(
    lambda chances: sorted(chances, reverse=True)
)


@settings(deadline=None)
@given(st.lists(CHANCES, min_size=1, max_size=4), st.floats(1.0, 1000.0), st.integers(0, 40))
def test_no_other_number_of_rows_would_bring_more(sessions: list[list[float]], pace: float, most: int) -> None:
    ranked = sorted(itertools.chain(*sessions), reverse=True)[:most]
    width = len(sessions)

    def net(count: int) -> float:
        return sum(ranked[:count]) - pace * VERIFICATION.seconds(width + count)

    taken = rows(*sessions, pace=pace, most=most)
    assert all(count <= len(chances) for count, chances in zip(taken, sessions, strict=True))
    assert net(sum(taken)) == pytest.approx(max(net(count) for count in range(len(ranked) + 1)), abs=1e-9)
    brought = sum(sum(chances[:count]) for count, chances in zip(taken, sessions, strict=True))
    assert brought == pytest.approx(sum(ranked[: sum(taken)])), "all have made as much: the best are taken"


WISHES = st.builds(
    Wish,
    candidates=CHANCES,
    most=st.integers(12, 63),
    places=st.lists(st.builds(worth, st.floats(0.0, 0.9), st.floats(0.0, 0.1), nodes=st.integers(0, 3)), max_size=8),
    dearer=st.sampled_from([0.0, 0.25]),
)


@settings(deadline=None)
@given(st.lists(WISHES, max_size=5), st.floats(0.1, 1000.0), st.integers(0, 30), st.booleans())
def test_any_draft_pass_has_room_for_its_rows_and_pays(wishes: list[Wish], pace: float, most: int, retry: bool) -> None:
    taken = places(*wishes, pace=pace, most=most, retry=retry)
    assert len(taken) == len(wishes)
    drafted = [place for wish, count in zip(wishes, taken, strict=True) for place in wish.places[:count]]
    assert sum(place.rows for place in drafted) <= most
    if drafted and not retry:
        gain = sum(math.fsum(place.chances) for place in drafted)
        assert gain > pace * DRAFT_PASS.seconds(sum(place.rows for place in drafted)) - 1e-9
