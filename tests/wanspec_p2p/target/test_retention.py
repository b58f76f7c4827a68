from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.target.retention import (
    BETTER,
    IDLE_SECONDS,
    PATIENCE_SECONDS,
    RELEASED_SECONDS,
    SPARE_SECONDS,
    TRIAL_SECONDS,
    Attached,
    Retention,
)
from wanspec_p2p.types import PeerId

OLD, NEW, OTHER = PeerId("old"), PeerId("new"), PeerId("other")
LONG = max(TRIAL_SECONDS, IDLE_SECONDS)


def node(
    name: PeerId, worth: float | None = 1.0, *, since: float = 0.0, idle_since: float | None = None, load: int = 0
) -> Attached:
    return Attached(name, since, since if idle_since is None else idle_since, load, worth is not None, worth)


def test_who_is_wanted_stays_whatever_it_brings() -> None:
    retained = Retention()
    for now in (0.0, LONG, 1000.0 * LONG):
        assert retained.look([node(OLD, None), node(NEW, 0.0)], 2, now, now) == ([], False)
    assert retained.retiring == frozenset()


def test_a_newer_node_that_brings_clearly_more_takes_the_place_of_an_older_one() -> None:
    retained = Retention()
    attached = [node(OLD, 1.0, load=1), node(OTHER, 2.0, load=1), node(NEW, 1.1 * BETTER, since=100.0, load=1)]
    assert retained.look(attached, 2, 100.0, 100.0) == ([], False)
    assert retained.retiring == frozenset(), "there was no time to compare them"
    due = 100.0 + TRIAL_SECONDS
    assert retained.look(attached, 2, 100.0, due) == ([], False)
    assert retained.retiring == {OLD}
    idle = [replace(attached[0], load=0, idle_since=due), *attached[1:]]
    assert retained.look(idle, 2, due, due + IDLE_SECONDS - 1.0).nodes == [], "it may be needed still"
    assert retained.look(idle, 2, due, due + IDLE_SECONDS) == ([OLD], True)
    assert retained.released(due + IDLE_SECONDS) == [OLD]
    assert retained.look(idle[1:], 2, due, due + IDLE_SECONDS) == ([], False)
    assert retained.retiring == frozenset()
    assert retained.released(due + IDLE_SECONDS + RELEASED_SECONDS) == []


@pytest.mark.parametrize("worth", [0.5, 1.0, 0.99 * BETTER])
def test_a_newer_node_that_brings_hardly_more_goes_and_is_no_reason_to_look_for_others(worth: float) -> None:
    retained = Retention()
    attached = [node(OLD, 1.0), node(NEW, worth, since=1.0)]
    assert retained.look(attached, 1, 2.0, 3.0) == ([], False)
    assert retained.look(attached, 1, 2.0, 1.0 + LONG) == ([NEW], False)


def test_what_a_burst_left_goes_without_a_word_of_better_ones() -> None:
    attached = [node(OLD, 1.0), *(node(PeerId(f"{number}"), 3.0 * number, since=1.0) for number in range(3))]
    gone, better = Retention().look(attached, 1, 2.0, 1.0 + LONG)
    assert (set(gone), better) == ({OLD, "0", "1"}, True)
    attached = [node(OLD, 9.0), *(node(PeerId(f"{number}"), None, since=1.0) for number in range(3))]
    assert Retention().look(attached, 1, 2.0, 1.0 + LONG) == (["0", "1", "2"], False)


def test_one_that_was_not_tried_waits_for_a_session_but_not_for_ever() -> None:
    retained = Retention()
    attached = [node(OLD, 0.1), node(NEW, None, since=50.0)]
    assert retained.look(attached, 1, 40.0, 50.0 + IDLE_SECONDS).nodes == [], "none has begun since it came"
    assert retained.retiring == frozenset()
    assert retained.look(attached, 1, 51.0, 49.0 + IDLE_SECONDS).nodes == []
    assert retained.look(attached, 1, 51.0, 50.0 + IDLE_SECONDS) == ([NEW], False)
    assert Retention().look(attached, 1, 40.0, 50.0 + PATIENCE_SECONDS) == ([NEW], False)


def test_one_that_turns_down_whatever_it_is_asked_is_asked_last() -> None:
    retained = Retention()
    declines = replace(node(NEW, None), asked=True)
    assert retained.look([node(OLD, 0.1), declines], 1, 1.0, TRIAL_SECONDS).nodes == []
    assert retained.retiring == {NEW}
    assert retained.look([node(OLD, 0.1), declines], 1, 1.0, IDLE_SECONDS) == ([NEW], False)
    first = replace(node(OLD, None), asked=True)
    assert retained.look([first, node(NEW, 0.1, since=1.0)], 1, 2.0, 1.0 + LONG) == ([OLD], True)


def test_after_a_drafter_went_silent_one_more_stays_for_a_while() -> None:
    retained = Retention()
    assert retained.stay(2, 0.0) == 2
    retained.spare_wanted(10.0)
    assert retained.stay(2, 10.0) == 3
    attached = [node(OLD), node(NEW)]
    assert retained.look(attached, 1, 5.0, 10.0 + LONG).nodes == []
    assert retained.stay(2, 10.0 + SPARE_SECONDS) == 2
