"""When to ask the coordinator for more drafters. Pure; time is an argument."""

from __future__ import annotations

from wanspec_p2p.protocol import limits

__all__ = ["ARRIVAL_SECONDS", "ASK_AGAIN_SECONDS", "Recruiter"]

ASK_AGAIN_SECONDS = 2.0
"""After an answer that was not enough."""
ARRIVAL_SECONDS = 5.0
"""How long a node that was granted a lease may take to dial before another is asked for."""


class Recruiter:
    """Keeps `wanted` drafters attached, more where sessions lack them; one question at a time."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._asked: str | None = None
        self._asked_at = 0.0
        self._expected: list[float] = []  # when granted nodes are given up on
        self._not_before = 0.0

    def missing(self, attached: int, now: float, lacking: int = 0) -> int:
        """How many to ask for now; 0 while an answer or granted nodes are under way.

        Args:
            lacking: how many more sessions could use, whatever is attached.
        """
        self._expected = [deadline for deadline in self._expected if deadline > now]
        if self._asked is not None and now < self._asked_at + ARRIVAL_SECONDS:
            return 0
        if now < self._not_before:
            return 0
        return max(0, min(max(self.wanted - attached, lacking), limits.MAX_DRAFTERS) - len(self._expected))

    def asked(self, want: str, now: float) -> None:
        self._asked, self._asked_at = want, now

    def answered(self, want: str, granted: int, now: float) -> None:
        if want != self._asked:
            return
        self._asked = None
        self._expected += [now + ARRIVAL_SECONDS] * granted
        self._not_before = now + ASK_AGAIN_SECONDS

    def arrived(self) -> None:
        """A node attached."""
        if self._expected:
            self._expected.pop(0)

    def reset(self) -> None:
        """The coordinator was lost, and what was asked of it with it."""
        self._asked = None
        self._expected.clear()
        self._not_before = 0.0
