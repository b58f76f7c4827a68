from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.target import retention
from wanspec_p2p.target.retention import (
    IDLE_SECONDS,
    RELEASED_SECONDS,
    SPARE_SECONDS,
    TRIAL_SECONDS,
    Absent,
    Attached,
    Retention,
)
from wanspec_p2p.types import PeerId

OLD, NEW, OTHER = PeerId("old"), PeerId("new"), PeerId("other")


def node(name: PeerId, worth: float = 1.0, *, drafted: bool = True, load: int = 0, idle_since: float = 0.0) -> Attached:
    return Attached(name, drafted, load, idle_since, worth)


def test_who_is_wanted_stays_whatever_it_brings() -> None:
    retained = Retention()
    for now in (0.0, TRIAL_SECONDS, 1000.0 * TRIAL_SECONDS):
        assert retained.look([node(OLD, 0.0, drafted=False), node(NEW, 0.0)], 2, now) == ((), False)
    assert retained.retiring == frozenset()


def test_a_newer_node_that_brings_more_takes_the_place_of_an_older_one() -> None:
    retained = Retention()
    attached = [node(OLD, 1.0, load=1), node(OTHER, 2.0, load=1), node(NEW, 3.0, load=1)]
    assert retained.look(attached, 2, 100.0).nodes == []
    assert retained.retiring == frozenset(), "there was no time to compare them"
    assert retained.look(attached, 2, 100.0 + TRIAL_SECONDS).nodes == []
    assert retained.retiring == {OLD}
    idle = [replace(attached[0], load=0, idle_since=200.0), *attached[1:]]
    assert retained.look(idle, 2, 199.0 + IDLE_SECONDS).nodes == [], "it may be needed still"
    assert retained.look(idle, 2, 200.0 + IDLE_SECONDS) == ([OLD], True)
    assert retained.released(200.0 + IDLE_SECONDS) == [OLD]
    assert retained.look(idle[1:], 2, 201.0 + IDLE_SECONDS) == ((), False)
    assert retained.retiring == frozenset()
    assert retained.released(200.0 + IDLE_SECONDS + RELEASED_SECONDS) == []


def test_a_newer_node_that_brings_less_goes_and_is_no_reason_to_look_for_more() -> None:
    retained = Retention()
    attached = [node(OLD, 2.0), node(NEW, 1.0)]
    assert retained.look(attached, 1, 0.0) == ([], False)
    assert retained.look(attached, 1, IDLE_SECONDS) == ([NEW], False)


def test_one_that_was_not_tried_goes_before_any_that_was_but_not_at_once() -> None:
    retained = Retention()
    attached = [node(OLD, 0.1), node(NEW, 9.0, drafted=False, idle_since=50.0)]
    assert retained.look(attached, 1, 49.0 + IDLE_SECONDS).nodes == []
    assert retained.retiring == frozenset()
    assert retained.look(attached, 1, 50.0 + IDLE_SECONDS) == ([NEW], False)


def test_one_that_reads_a_prompt_has_not_failed_to_draft() -> None:
    retained = Retention()
    assert Retention().look([node(OLD, drafted=False), node(NEW, drafted=False)], 1, IDLE_SECONDS) == ([NEW], False)
    reading, idle = node(OLD, 1.0, drafted=False, load=1), node(NEW, 2.0, drafted=False)
    assert retained.look([reading, idle], 1, IDLE_SECONDS) == ([NEW], False)


def test_after_a_drafter_went_silent_one_more_stays_for_a_while() -> None:
    retained = Retention()
    assert retained.stay(2, 0.0) == 2
    retained.spare_wanted(10.0)
    assert retained.stay(2, 10.0) == 3
    attached = [node(OLD), node(NEW)]
    assert retained.look(attached, 1, 10.0 + IDLE_SECONDS).nodes == ()
    assert retained.stay(2, 10.0 + SPARE_SECONDS) == 2


def test_the_absent_are_forgotten_in_time_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_ABSENT", 2)
    absent = Absent(10.0)
    for now, name in ((0.0, OLD), (1.0, OTHER), (2.0, OLD), (3.0, NEW)):
        absent.add(name, now)
    assert absent.at(3.0) == [OLD, NEW]
    assert absent.at(12.0) == [NEW]
    assert absent.at(13.0) == []
