"""Which nodes a target lets go again: those that bring least, once it has more than it wants. Pure.

It has more because one was asked for beside a silent drafter, or instead of one that turned a session down, or to see
whether it is better (`recruiting`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wanspec_p2p.types import PeerId

__all__ = [
    "IDLE_SECONDS",
    "MAX_ABSENT",
    "RELEASED_SECONDS",
    "SPARE_SECONDS",
    "TRIAL_SECONDS",
    "Absent",
    "Attached",
    "Farewell",
    "Retention",
]

TRIAL_SECONDS = 30.0
"""Where more are attached than stay: after so long those that draft have shown what they bring."""
IDLE_SECONDS = 60.0
"""One that was idle for so long is let go then."""
RELEASED_SECONDS = 1800.0
"""One that was let go is not looked at again for so long, unless drafters are missing."""
SPARE_SECONDS = 600.0
"""After a drafter went silent a node more than is wanted stays: the next such drafter is replaced at once."""
MAX_ABSENT = 1024
"""Nodes that are remembered for not being asked."""


class Absent:
    """Nodes that are not asked for again for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[PeerId, float] = {}  # in this order

    def add(self, node: PeerId, now: float) -> None:
        self._until.pop(node, None)
        self._until[node] = now + self._seconds
        if len(self._until) > MAX_ABSENT:
            del self._until[next(iter(self._until))]

    def at(self, now: float) -> list[PeerId]:
        """Those that are absent still."""
        for node in [node for node, until in self._until.items() if until <= now]:
            del self._until[node]
        return list(self._until)


@dataclass(frozen=True, slots=True)
class Attached:
    """A node, as its link has it.

    Args:
        drafted: whether it has, since it came.
        load: sessions it has now. idle_since: when the last one ended, where it has none.
        worth: tokens of the answer that it can be expected to bring a round.
    """

    node: PeerId
    drafted: bool
    load: int
    idle_since: float
    worth: float


class Farewell(NamedTuple):
    """Whom to let go now, and whether newer ones stay instead: then better ones can be found."""

    nodes: Sequence[PeerId]
    better: bool


class Retention:
    """Attributes:
    retiring: nodes to be chosen last, so that they are idle unless they are needed.
    """

    def __init__(self) -> None:
        self.retiring: frozenset[PeerId] = frozenset()
        self._released = Absent(RELEASED_SECONDS)
        self._spare_until = -math.inf
        self._surplus_since: float | None = None  # when more were attached than stay

    def spare_wanted(self, now: float) -> None:
        """A drafter has gone silent."""
        self._spare_until = now + SPARE_SECONDS

    def stay(self, wanted: int, now: float) -> int:
        """How many of those attached do."""
        return wanted + (now < self._spare_until)

    def released(self, now: float) -> list[PeerId]:
        """Nodes that were let go not long ago."""
        return self._released.at(now)

    def look(self, attached: Sequence[Attached], wanted: int, now: float) -> Farewell:
        """Whoever is idle and has not drafted goes first, then whoever brings least; of equals, whoever came last.

        Args:
            attached: in the order they came.
        """
        surplus = len(attached) - self.stay(wanted, now)
        if surplus <= 0:
            self._surplus_since, self.retiring = None, frozenset()
            return Farewell((), better=False)
        if self._surplus_since is None:
            self._surplus_since = now
        compared = now - self._surplus_since >= TRIAL_SECONDS
        newest_first = [*reversed(attached)]
        worst = sorted(newest_first, key=lambda one: (one.drafted or one.load > 0, one.worth))[:surplus]
        self.retiring = frozenset(one.node for one in worst if one.drafted and compared)
        going = [one.node for one in worst if not one.load and now - one.idle_since >= IDLE_SECONDS]
        for node in going:
            self._released.add(node, now)
        return Farewell(going, better=any(node != attached[-1].node for node in going))
