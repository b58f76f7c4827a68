"""When the next verdict is due, and how long a pass waits for it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from wanspec_p2p.speculation.rhythm import WORTH, Rhythm

ROUND, PASS = 30.0, 5.0


def heard(*times: float) -> Rhythm:
    rhythm = Rhythm()
    for at in times:
        rhythm.heard(at)
    return rhythm


def even(verdicts: int, gap: float = ROUND) -> Rhythm:
    """The last of them came at 0."""
    return heard(*(gap * number for number in range(1 - verdicts, 1)))


@pytest.mark.parametrize("verdicts", [0, 1, 2])
def test_nothing_is_waited_for_before_there_is_a_rhythm(verdicts: int) -> None:
    assert even(verdicts).pause(ROUND, PASS) == 0.0


def test_a_verdict_that_is_due_is_waited_for_and_a_moment_more() -> None:
    rhythm = even(40)
    assert rhythm.pause(ROUND - 2.0, PASS) == pytest.approx(2.0 + PASS / 8, abs=0.01)
    assert rhythm.pause(ROUND - 1.0, PASS) == pytest.approx(1.0 + PASS / 8, abs=0.01)
    assert rhythm.pause(ROUND, PASS) == pytest.approx(PASS / 8, abs=0.01)


def test_two_rounds_of_one_length_are_a_rhythm() -> None:
    assert even(3).pause(ROUND, PASS) == pytest.approx(PASS / 8)


@pytest.mark.parametrize("now", [0.0, 5.0, ROUND - WORTH * PASS - 0.1, ROUND + PASS, 10 * ROUND])
def test_what_is_too_far_off_or_long_overdue_is_not(now: float) -> None:
    assert even(40).pause(now, PASS) == 0.0


def test_a_pass_that_takes_no_time_never_waits() -> None:
    assert even(40).pause(ROUND, 0.0) == 0.0


def test_without_a_rhythm_little_is_waited_for() -> None:
    draw = random.Random(0)

    def uneven() -> Iterable[float]:
        at = 0.0
        for _ in range(40):
            at += draw.choice([30.0, 90.0, 400.0])
            yield at

    times = list(uneven())
    assert heard(*times).pause(times[-1] + 30.0, PASS) == 0.0


@pytest.mark.parametrize("announced", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(20))
def test_no_pause_is_longer_than_a_pass(seed: int, announced: float) -> None:
    draw = random.Random(seed)
    rhythm, at = Rhythm(), 0.0
    for _ in range(200):
        at += draw.uniform(0.0, 60.0)
        rhythm.heard(at)
        if draw.random() < announced:
            rhythm.announced(at + draw.uniform(-10.0, 1000.0))
        assert 0.0 <= rhythm.pause(at + draw.uniform(0.0, 60.0), PASS) <= 2 * WORTH * PASS


def test_what_is_announced_is_believed_at_once_and_forgotten_with_its_verdict() -> None:
    rhythm = Rhythm()
    rhythm.announced(100.0)
    assert rhythm.pause(99.0, PASS) == pytest.approx(1.0 + PASS / 8)
    rhythm.heard(100.0)
    assert rhythm.pause(100.0, PASS) == 0.0
    assert rhythm.pause(200.0, PASS) == 0.0, "nothing is due before the next is announced"


def test_a_target_that_is_always_late_is_expected_later() -> None:
    rhythm = Rhythm()
    for number in range(1, 80):
        rhythm.announced(100.0 * number)
        rhythm.heard(100.0 * number + 4.0)
    rhythm.announced(8000.0)
    assert rhythm.pause(8000.0, PASS) == pytest.approx(0.0), "too far off"
    assert rhythm.pause(8002.0, PASS) == pytest.approx(2.0 + PASS / 8, abs=0.01)


def test_announcements_that_do_not_come_true_are_waited_for_no_longer() -> None:
    draw = random.Random(0)
    rhythm = Rhythm()
    for number in range(1, 80):
        rhythm.announced(100.0 * number)
        rhythm.heard(100.0 * number + draw.choice([-40.0, 0.0, 60.0]))
    rhythm.announced(8000.0)
    assert rhythm.pause(7999.0, PASS) == 0.0
