"""How often something may come that costs its sender nothing."""

from __future__ import annotations

import math

__all__ = ["Allowance"]


class Allowance:
    """Args:
    burst: so many at once, as a way that stood still delivers them.
    per_second: and so many a second from then on.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left, self._at = burst, -math.inf

    def take(self, at: float) -> bool:
        """Whether one more is within bounds.

        Args:
            at: monotonic seconds.
        """
        self.refill(at)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def refill(self, at: float, *, unread: bool = False) -> None:
        """Args:
        unread: since the last time we did not look, so that all that was sent meanwhile comes at once.
        """
        more = (at - self._at) * self._per_second
        self._left = self._left + more if unread else max(self._left, min(self._left + more, self._burst))
        self._at = at
