"""How many rows each session has in a pass, so that company costs nobody more time than it must.

A device runs some rows in the time of one. A session that is alone may have all of them; with others beside it each has
a part, since a row beyond them makes everybody's pass longer, and drafts nothing sooner than the next pass would. How
many there are is learned from passes as they come (docs/decisions/0025-sessions-share-the-rows-that-cost-nothing.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from wanspec_p2p.speculation.pace import SHORT_DRAFT_PROMPT
from wanspec_p2p.speculation.passcost import PassCost
from wanspec_p2p.types import Segment

__all__ = ["RowShares"]

SLACK = 1 / 16
"""By so much longer than one with a single row a session a pass may be: what is flat is not so to the last row."""
DOUBT = 8.0
"""Squared rows: with many sessions widths differ by a few rows only, and those must tell what a row costs."""


class RowShares:
    """Args:
    most: rows that a session may have when it is alone.
    least: fewer cost as much.
    """

    def __init__(self, most: int, least: int = 1) -> None:
        self._most, self._least = most, least
        self._cost = PassCost(DOUBT)

    def measured(self, segments: Sequence[Segment], seconds: float) -> None:
        """A pass over them took so long. One that reads a prompt tells nothing of rows."""
        if all(len(segment.tokens) <= SHORT_DRAFT_PROMPT for segment in segments):
            self._cost.measured(sum(segment.rows for segment in segments), seconds)

    def of(self, sessions: int) -> list[int]:
        """Rows of each of so many sessions in the next pass."""
        if sessions == 0:
            return []
        free = self._cost.widest((1.0 + SLACK) * self._cost.seconds(sessions))
        rows = max(int(min(free, sessions * self._most)), sessions * self._least)
        each, rest = divmod(rows, sessions)
        return [each + (number < rest) for number in range(sessions)]
