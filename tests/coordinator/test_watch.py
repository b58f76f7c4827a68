from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.watch import ASK_SECONDS, HUNG_SECONDS, Watch
from wanspec_p2p.links.peer import LinkStats

TICK = 0.25


class Link:
    """A peer's link: `answers` is whether the peer says something when it is pinged."""

    def __init__(self) -> None:
        self.stats = LinkStats()
        self.reading = self.answers = True
        self.pings = 0

    def ping(self) -> None:
        self.pings += 1
        self.stats.frames_received += self.answers


class Rig:
    def __init__(self, *links: Link) -> None:
        self.watch = Watch()
        self.links = links
        self.at = 0.0
        for number, link in enumerate(links):
            self.watch.begin(number, link)

    def ticks(self, seconds: float, owing: set[int], step: float = TICK) -> Iterator[list[int]]:
        for _ in range(round(seconds / step)):
            self.at += step
            yield self.watch.tick(self.at, owing)


def test_a_target_that_owes_is_pinged_twice_a_second_and_another_is_not() -> None:
    rig = Rig(Link(), Link())
    assert not any(rig.ticks(10.0, {0}))
    assert rig.links[0].pings == pytest.approx(10.0 / ASK_SECONDS, abs=1)
    assert rig.links[1].pings == 0


def test_a_slow_target_answers_pings_and_is_not_hung() -> None:
    """Its pass takes a minute: no token comes, and its event loop lives."""
    rig = Rig(Link())
    assert not any(rig.ticks(60.0, {0}))


def test_two_seconds_of_silence_are_a_hung_target() -> None:
    rig = Rig(Link(), Link())
    list(rig.ticks(3.0, {0, 1}))
    rig.links[0].answers = False
    found = [hung for hung in rig.ticks(HUNG_SECONDS + 2 * TICK, {0, 1}) if hung]
    assert found and all(hung == [0] for hung in found)
    assert len(found) <= 3, "not before it was silent for so long"


def test_silence_before_a_target_owes_is_not_counted() -> None:
    rig = Rig(Link())
    rig.links[0].answers = False
    assert not any(rig.ticks(30.0, set()))
    assert not any(rig.ticks(HUNG_SECONDS - TICK, {0}))


def test_a_hung_target_stays_so_until_it_says_something() -> None:
    rig = Rig(Link())
    rig.links[0].answers = False
    list(rig.ticks(4.0, {0}))
    list(rig.ticks(4.0, set()))  # its answers have gone elsewhere
    assert rig.watch.hung(0)
    rig.links[0].stats.frames_received += 1
    assert not rig.watch.hung(0)
    assert not any(rig.ticks(HUNG_SECONDS - TICK, {0})), "what was before does not count"


def test_a_pause_of_our_own_is_not_their_silence() -> None:
    """SIGSTOP to the coordinator, or a machine that slept: one tick after a minute, before anything could be read."""
    rig = Rig(Link())
    list(rig.ticks(1.0, {0}))
    rig.at += 60.0
    assert rig.watch.tick(rig.at, {0}) == []
    assert not any(rig.ticks(5.0, {0}))


def test_a_link_we_do_not_read_is_not_silent() -> None:
    rig = Rig(Link())
    rig.links[0].answers = rig.links[0].reading = False
    assert not any(rig.ticks(30.0, {0}))


def test_a_link_that_ended_is_forgotten() -> None:
    rig = Rig(Link())
    rig.links[0].answers = False
    list(rig.ticks(4.0, {0}))
    rig.watch.end(0)
    rig.watch.end(0)
    assert not rig.watch.hung(0)
    assert not any(rig.ticks(1.0, {0}))  # its answers are about to be told
