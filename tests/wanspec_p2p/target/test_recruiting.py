from __future__ import annotations

import random

import pytest

from wanspec_p2p.protocol import limits
from wanspec_p2p.target.recruiting import (
    ABSENT_SECONDS,
    ARRIVAL_SECONDS,
    ASK_AGAIN_SECONDS,
    FIRST_SCOUT_SECONDS,
    RAREST_SCOUT_SECONDS,
    SPREAD,
    Recruiter,
)
from wanspec_p2p.types import PeerId

NODES = [PeerId(letter * 32) for letter in "abc"]


def recruiter_of(wanted: int) -> Recruiter:
    return Recruiter(wanted, random.Random(0))


def test_what_is_missing_is_asked_for_once() -> None:
    recruiter = recruiter_of(2)
    assert recruiter.missing(attached=0, now=0.0) == 2
    recruiter.asked("w1", 0.0)
    assert recruiter.missing(attached=0, now=1.0) == 0


def test_nothing_is_missing_when_all_are_there() -> None:
    assert recruiter_of(2).missing(attached=2, now=0.0) == 0
    assert recruiter_of(2).missing(attached=3, now=0.0) == 0
    assert recruiter_of(0).missing(attached=0, now=0.0) == 0


def test_nodes_that_were_granted_are_given_time_to_dial() -> None:
    recruiter = recruiter_of(2)
    recruiter.asked("w1", 0.0)
    recruiter.answered("w1", NODES[:1], 0.5)
    assert recruiter.missing(attached=0, now=0.5 + ASK_AGAIN_SECONDS) == 1
    assert recruiter.missing(attached=0, now=0.5 + ARRIVAL_SECONDS + 0.1) == 2


def test_a_node_that_attached_is_not_waited_for_any_more() -> None:
    recruiter = recruiter_of(2)
    recruiter.asked("w1", 0.0)
    recruiter.answered("w1", NODES[:2], 0.5)
    recruiter.arrived(NODES[0])
    later = 0.5 + ASK_AGAIN_SECONDS
    assert recruiter.missing(attached=1, now=later) == 0
    assert recruiter.missing(attached=0, now=later) == 1  # it left again; the other one is still expected


def test_an_answer_that_was_not_enough_is_followed_by_a_pause() -> None:
    recruiter = recruiter_of(2)
    recruiter.asked("w1", 0.0)
    recruiter.answered("w1", NODES[:0], 0.5)
    assert recruiter.missing(attached=0, now=0.6) == 0
    assert recruiter.missing(attached=0, now=0.5 + ASK_AGAIN_SECONDS) == 2


def test_a_question_without_an_answer_is_asked_again() -> None:
    recruiter = recruiter_of(1)
    recruiter.asked("w1", 0.0)
    assert recruiter.missing(attached=0, now=ARRIVAL_SECONDS - 0.1) == 0
    assert recruiter.missing(attached=0, now=ARRIVAL_SECONDS) == 1


@pytest.mark.parametrize("want", ["another", ""])
def test_an_answer_to_another_question_changes_nothing(want: str) -> None:
    recruiter = recruiter_of(1)
    recruiter.asked("w1", 0.0)
    recruiter.answered(want, NODES[:1], 0.1)
    assert recruiter.missing(attached=0, now=ARRIVAL_SECONDS) == 1


def test_a_new_coordinator_link_is_asked_at_once() -> None:
    recruiter = recruiter_of(1)
    recruiter.asked("w1", 0.0)
    recruiter.answered("w1", NODES[:1], 0.1)
    recruiter.reset()
    assert recruiter.missing(attached=0, now=0.2) == 1


def test_nodes_that_do_not_come_are_not_asked_for_again_until_they_have() -> None:
    recruiter, now = recruiter_of(2), 0.0
    for times in range(3):
        recruiter.asked("w", now)
        recruiter.answered("w", NODES[:2], now)
        now += ARRIVAL_SECONDS
        assert recruiter.absent(now - 0.1) == []
        assert recruiter.give_up_on_late(now) == NODES[:2]
        assert recruiter.give_up_on_late(now) == []
        assert recruiter.missing(0, now) == 2
        now += 2**times * ABSENT_SECONDS
        assert recruiter.absent(now - 0.1) == NODES[:2]
        assert recruiter.absent(now) == []
    recruiter.arrived(NODES[0])
    recruiter.asked("w", now)
    recruiter.answered("w", NODES[:2], now)
    recruiter.arrived(NODES[1])
    recruiter.give_up_on_late(now + ARRIVAL_SECONDS)
    assert recruiter.absent(now + ARRIVAL_SECONDS) == NODES[:1]
    assert recruiter.absent(now + ARRIVAL_SECONDS + ABSENT_SECONDS) == []


def test_an_unexpected_arrival_is_no_error() -> None:
    recruiter = recruiter_of(1)
    recruiter.arrived(NODES[0])
    assert recruiter.missing(attached=1, now=0.0) == 0


def test_more_than_usual_are_asked_for_where_sessions_lack_them() -> None:
    recruiter = recruiter_of(2)
    assert recruiter.missing(2, 0.0) == 0
    assert recruiter.missing(2, 0.0, lacking=1) == 1
    recruiter.asked("w", 0.0)
    recruiter.answered("w", NODES[:1], 0.1)
    assert recruiter.missing(2, 0.1 + ASK_AGAIN_SECONDS, lacking=1) == 0, "one is on its way"
    assert recruiter.missing(2, 0.2 + ARRIVAL_SECONDS, lacking=1000) == limits.MAX_DRAFTERS


def scouted_at(recruiter: Recruiter, since: float, until: float) -> list[float]:
    """When it would have asked for one that may be better, looking every second; each is granted and arrives."""
    found = []
    now = since
    while now < until:
        if recruiter.scouts(now):
            found.append(now)
            recruiter.asked("scout", now, scouting=True)
            assert not recruiter.answered("scout", NODES[:1], now), "that there are none matters to nobody"
            recruiter.arrived(NODES[0])
        now += 1.0
    return found


def about(seconds: float, expected: float) -> bool:
    return (1.0 - SPREAD) * expected <= seconds <= (1.0 + SPREAD) * expected + 1.0


def test_better_ones_are_looked_for_ever_more_seldom() -> None:
    times = scouted_at(recruiter_of(2), 0.0, 9000.0)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    due = [FIRST_SCOUT_SECONDS * factor for factor in (1, 1, 2, 4, 8)] + [RAREST_SCOUT_SECONDS] * 20
    assert len(gaps) > 10 and all(map(about, gaps, due))
    assert len(set(gaps[5:])) > 1, "targets that began together do not ask together for good"


def test_after_one_that_was_better_more_are_looked_for_soon() -> None:
    recruiter = recruiter_of(2)
    scouted_at(recruiter, 0.0, 3000.0)
    recruiter.scouted(3000.0)
    first, *_ = scouted_at(recruiter, 3000.0, 3100.0)
    assert about(first - 3000.0, FIRST_SCOUT_SECONDS)


def test_nobody_looks_for_better_ones_than_none() -> None:
    assert scouted_at(recruiter_of(0), 0.0, 1000.0) == []


def test_while_an_answer_or_a_node_is_under_way_none_is_looked_for() -> None:
    recruiter, due = recruiter_of(2), 2.0 * FIRST_SCOUT_SECONDS
    assert not recruiter.scouts(0.0)
    recruiter.asked("w1", due)
    assert not recruiter.scouts(due)
    assert recruiter.answered("w1", NODES[:1], due)
    assert not recruiter.scouts(due + ASK_AGAIN_SECONDS), "it has to arrive first"
    recruiter.arrived(NODES[0])
    assert recruiter.scouts(due + ASK_AGAIN_SECONDS)


def test_once_one_was_missing_all_have_to_be_there_for_a_while() -> None:
    recruiter = recruiter_of(2)
    assert not recruiter.scouts(0.0)
    assert recruiter.missing(attached=1, now=100.0) == 1
    assert not recruiter.scouts(100.0 + (1.0 - SPREAD) * FIRST_SCOUT_SECONDS - 1.0)
    assert recruiter.scouts(101.0 + (1.0 + SPREAD) * FIRST_SCOUT_SECONDS)
