"""When to ask the coordinator for more drafters. Pure; time is an argument."""

from __future__ import annotations

import random
from collections.abc import Iterable

from wanspec_p2p.links.absence import Absence
from wanspec_p2p.protocol import limits
from wanspec_p2p.types import PeerId

__all__ = [
    "ABSENT_SECONDS",
    "ARRIVAL_SECONDS",
    "ASK_AGAIN_SECONDS",
    "FIRST_SCOUT_SECONDS",
    "LONGEST_ABSENT_SECONDS",
    "RAREST_SCOUT_SECONDS",
    "Recruiter",
]

ASK_AGAIN_SECONDS = 2.0
"""After an answer that was not enough."""
ARRIVAL_SECONDS = 5.0
"""How long a node that was granted a lease may take to dial before another is asked for."""
ABSENT_SECONDS, LONGEST_ABSENT_SECONDS = 30.0, 960.0
"""How long one that did not is not asked for again, twice as long each time: it may say yes to keep others away."""
FIRST_SCOUT_SECONDS, RAREST_SCOUT_SECONDS = 60.0, 960.0
"""When a target that has all it wants asks for one more, which may be better; twice as long after each that was not."""
SPREAD = 0.25
"""By what share of that it may be sooner or later: targets that began together must not ask together."""


class Recruiter:
    """Keeps `wanted` drafters attached, more where sessions lack them, and looks for better ones now and then; one
    question at a time."""

    def __init__(self, wanted: int, rng: random.Random) -> None:
        self.wanted = wanted
        self._rng = rng
        self._asked: str | None = None
        self._asked_at = 0.0
        self._expected: dict[PeerId, float] = {}  # nodes that were granted, to when they are given up on
        self._absent = Absence(ABSENT_SECONDS, longest=LONGEST_ABSENT_SECONDS)
        self._not_before = 0.0
        self._scouting = False  # what was asked last is a scout
        self._scout_seconds = FIRST_SCOUT_SECONDS
        self._scout_at: float | None = None  # None until there is something to compare with

    def missing(self, attached: int, now: float, lacking: int = 0) -> int:
        """How many to ask for now; 0 while an answer or granted nodes are under way.

        Args:
            lacking: how many more sessions could use, whatever is attached.
        """
        short = max(self.wanted - attached, lacking)
        if short > 0 and self._scout_at is not None:
            self._look_again(now)  # not before all have been there for a while
        if self._waits(now):
            return 0
        return max(0, min(short, limits.MAX_DRAFTERS) - self._under_way(now))

    def give_up_on_late(self, now: float) -> list[PeerId]:
        """Nodes that should have come by now: they are not waited for any more, nor asked for again for a while."""
        late = [node for node, deadline in self._expected.items() if deadline <= now]
        for node in late:
            del self._expected[node]
            self._absent.add(node, now)
        return late

    def absent(self, now: float) -> list[PeerId]:
        """Nodes not to be asked for, since they said they would come and did not."""
        return self._absent.at(now)

    def scouts(self, now: float) -> bool:
        """Whether to ask for one more, where nobody is missing and those attached are at work."""
        if self._scout_at is None:
            self._look_again(now)
            return False
        return self.wanted > 0 and now >= self._scout_at and not self._under_way(now) and not self._waits(now)

    def _look_again(self, now: float) -> None:
        self._scout_at = now + self._scout_seconds * self._rng.uniform(1.0 - SPREAD, 1.0 + SPREAD)

    def _under_way(self, now: float) -> int:
        return sum(deadline > now for deadline in self._expected.values())

    def _waits(self, now: float) -> bool:
        return now < self._not_before or (self._asked is not None and now < self._asked_at + ARRIVAL_SECONDS)

    def asked(self, want: str, now: float, *, scouting: bool = False) -> None:
        self._asked, self._asked_at, self._scouting = want, now, scouting
        if scouting:
            self._look_again(now)
            self._scout_seconds = min(2.0 * self._scout_seconds, RAREST_SCOUT_SECONDS)

    def scouted(self, now: float) -> None:
        """One that was asked for in this way was better than one we had: there may be more of its kind."""
        self._scout_seconds = FIRST_SCOUT_SECONDS
        self._look_again(now)

    def answered(self, want: str, granted: Iterable[PeerId], now: float) -> bool:
        """Whether that matters: what was asked is answered, and was asked because drafters are missing."""
        if want != self._asked:
            return False
        self._asked = None
        self._expected |= dict.fromkeys(granted, now + ARRIVAL_SECONDS)
        self._not_before = now + ASK_AGAIN_SECONDS
        return not self._scouting

    def arrived(self, node: PeerId) -> None:
        """A node attached."""
        self._expected.pop(node, None)
        self._absent.forgive(node)

    def reset(self) -> None:
        """The coordinator was lost, and what was asked of it with it."""
        self._asked = None
        self._expected.clear()
        self._not_before = 0.0
