"""When a silent drafter is given up on. Pure; time is an argument.

A drafter that has been told something new is due to draft again. How long that usually takes is learned from its own
gaps; beyond the 95th percentile of them another is worth opening beside it (Dean and Barroso, The Tail at Scale, 2013).
What that costs is known as well, the time the other needs to get going, so the silent one is given as much longer:
whoever waits for what the alternative costs never loses more than twice the best (the ski-rental argument).
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from wanspec_p2p.types import PeerId

__all__ = ["Gaps", "Lead"]

REMEMBERED = 128
QUANTILE = 0.95
ENOUGH = 20
"""Gaps without which there is no such thing as their 95th percentile."""
LEAD_MEMORY = 0.9
UNKNOWN_SECONDS = 1.0
"""What either takes before it has been seen."""
ENOUGH_LEADS, LED_NODES = 8, 64
"""Leads before any is doubted, and nodes whose last one is remembered."""
MOST_LEADS, LEAST_DOUBTED = 4.0, 2.0
"""Times what is usual among the nodes that one lead counts for at most, and seconds that are believed in any case: one
prompt is longer than another."""


class Gaps:
    """How long one drafter lets us wait for a frame, lately."""

    def __init__(self) -> None:
        self._lately: deque[float] = deque(maxlen=REMEMBERED)

    def measured(self, seconds: float) -> None:
        """A frame came so long after the first word that it could answer to."""
        self._lately.append(seconds)

    @property
    def usual(self) -> float:
        """Seconds within which all but one frame in twenty came."""
        if len(self._lately) < ENOUGH:
            return max(UNKNOWN_SECONDS, *self._lately, 0.0)
        return sorted(self._lately)[math.ceil(QUANTILE * len(self._lately)) - 1]


class Lead:
    """How long a drafter that is opened for a session takes to its first frame: a fading mean over a target's nodes.

    What one node takes is held against what the nodes take, one voice each, or a single one that is slow on purpose
    would put the point where silence counts out of reach for all.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._weight = 0.0
        self._seen = 0
        self._last: dict[PeerId, float] = {}  # of each node, the latest last

    def measured(self, node: PeerId, seconds: float) -> None:
        self._seen += 1
        self._last.pop(node, None)
        self._last[node] = seconds
        if len(self._last) > LED_NODES:
            del self._last[next(iter(self._last))]
        if self._seen > ENOUGH_LEADS:
            seconds = min(seconds, max(LEAST_DOUBTED, MOST_LEADS * self._among_nodes))
        self._seconds = LEAD_MEMORY * self._seconds + seconds
        self._weight = LEAD_MEMORY * self._weight + 1.0

    @property
    def usual(self) -> float:
        """Seconds."""
        return self._seconds / self._weight if self._weight else UNKNOWN_SECONDS

    @property
    def _among_nodes(self) -> float:
        """The median of their last leads; of an even number the lower one, so that one of two does not decide."""
        return statistics.median_low(self._last.values())
