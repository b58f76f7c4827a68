"""When a silent drafter is given up on. Pure; time is an argument.

A drafter that has been told something new is due to draft again. How long that usually takes is learned from its own
gaps; beyond the 95th percentile of them another is worth opening beside it (Dean and Barroso, The Tail at Scale, 2013).
What that costs is known as well, the time the other needs to get going, so the silent one is given as much longer:
whoever waits for what the alternative costs never loses more than twice the best (the ski-rental argument).
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Gaps", "Lead"]

REMEMBERED = 128
QUANTILE = 0.95
ENOUGH = 20
"""Gaps without which there is no such thing as their 95th percentile."""
LEAD_MEMORY = 0.9
UNKNOWN_SECONDS = 1.0
"""What either takes before it has been seen."""


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
    """How long a drafter that is opened for a session takes to its first frame: a fading mean over a target's nodes."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._weight = 0.0

    def measured(self, seconds: float) -> None:
        self._seconds = LEAD_MEMORY * self._seconds + seconds
        self._weight = LEAD_MEMORY * self._weight + 1.0

    @property
    def usual(self) -> float:
        """Seconds."""
        return self._seconds / self._weight if self._weight else UNKNOWN_SECONDS
