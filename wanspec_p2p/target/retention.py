"""Which nodes a target lets go again, once it has more than it wants: those that bring least. Pure.

It has more because one was asked for beside a silent drafter, or instead of one that turned a session down, or to see
whether it is better (`recruiting`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wanspec_p2p.links.absence import Absence
from wanspec_p2p.types import PeerId

__all__ = [
    "BETTER",
    "IDLE_SECONDS",
    "PATIENCE_SECONDS",
    "RELEASED_SECONDS",
    "SPARE_SECONDS",
    "TRIAL_SECONDS",
    "Attached",
    "Farewell",
    "Retention",
]

BETTER = math.sqrt(2.0)
"""Times as much as an older node a newer one has to bring to take its place: what differs by less is luck."""
TRIAL_SECONDS = 30.0
"""How long a newer node that drafts has to show what it brings."""
IDLE_SECONDS = 60.0
"""One that is not wanted and was idle for so long is let go."""
PATIENCE_SECONDS = 600.0
"""How long a newer node is kept if no session begins in which it could be tried."""
RELEASED_SECONDS = 1800.0
"""One that was let go is not looked at again for so long, unless drafters are missing."""
SPARE_SECONDS = 600.0
"""After a drafter went silent a node more than is wanted stays: the next such drafter is replaced at once."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A node, as its link has it.

    Args:
        since: when it came. idle_since: when it last drafted, or else when it came. load: sessions it has now.
        asked: whether it had a session at all.
        worth: tokens of the answer that it brings a round; None: it has not drafted since it came.
    """

    node: PeerId
    since: float
    idle_since: float
    load: int
    asked: bool
    worth: float | None


class Farewell(NamedTuple):
    """Whom to let go now, and whether newer ones that bring more stay instead: then better ones can be found."""

    nodes: Sequence[PeerId]
    better: bool


class Retention:
    """Attributes:
    retiring: nodes to be chosen last, so that they are idle unless they are needed.
    """

    def __init__(self) -> None:
        self.retiring: frozenset[PeerId] = frozenset()
        self._released = Absence(RELEASED_SECONDS)
        self._spare_until = -math.inf

    def spare_wanted(self, now: float) -> None:
        """A drafter has gone silent."""
        self._spare_until = now + SPARE_SECONDS

    def stay(self, wanted: int, now: float) -> int:
        """How many of those attached do."""
        return wanted + (now < self._spare_until)

    def released(self, now: float) -> list[PeerId]:
        """Nodes that were let go not long ago."""
        return self._released.at(now)

    def look(self, attached: Sequence[Attached], wanted: int, begun_at: float, now: float) -> Farewell:
        """Whoever came first stays, unless one that came later brings more.

        Args:
            attached: in the order they came.
            begun_at: when the last session began.
        """
        kept, surplus = _parted(attached, self.stay(wanted, now), now)
        self.retiring = frozenset(one.node for one in surplus if one.asked and now - one.since >= TRIAL_SECONDS)
        going = [one for one in surplus if _may_go(one, begun_at, now)]
        for one in going:
            self._released.add(one.node, now)
        oldest = min((one.since for one in going), default=math.inf)
        return Farewell(
            [one.node for one in going], better=any(_shown(one, now) and one.since > oldest for one in kept)
        )


def _parted(attached: Sequence[Attached], stay: int, now: float) -> tuple[list[Attached], list[Attached]]:
    """Those that stay, and the others."""
    kept, others = list(attached[:stay]), []
    for newer in attached[stay:]:
        worst = min(kept, key=lambda one: one.worth or 0.0)
        if _shown(newer, now) and (newer.worth or 0.0) > BETTER * (worst.worth or 0.0):
            kept.remove(worst)
            kept.append(newer)
            others.append(worst)
        else:
            others.append(newer)
    return kept, others


def _shown(one: Attached, now: float) -> bool:
    """Whether it has drafted for long enough to be compared."""
    return one.worth is not None and now - one.since >= TRIAL_SECONDS


def _may_go(one: Attached, begun_at: float, now: float) -> bool:
    tried = one.asked or begun_at > one.since or now - one.since >= PATIENCE_SECONDS
    return tried and not one.load and now - one.idle_since >= IDLE_SECONDS
