"""When to dial again: exponential back-off with full jitter, so that a thousand nodes do not return in one instant.

The rule is "full jitter" of AWS's "Exponential Backoff And Jitter" (2015): uniform between 0 and the current ceiling.
"""

from __future__ import annotations

import random

__all__ = ["COORDINATOR_CAP_SECONDS", "Backoff"]

FIRST_SECONDS = 1.0
CAP_SECONDS = 30.0
COORDINATOR_CAP_SECONDS = 7.0
"""The longest ceiling towards a coordinator: everybody is registered again within ten seconds of its return, dialling
and the handshake included."""
MAX_RETRY_AFTER = 600.0


class Backoff:
    """Delays before attempts, for one address."""

    def __init__(self, rng: random.Random, *, first: float = FIRST_SECONDS, cap: float = CAP_SECONDS) -> None:
        self._rng, self._first, self._cap = rng, first, cap
        self._failures = 0

    def reset(self) -> None:
        """The peer took us in: the next failure starts from the shortest ceiling again."""
        self._failures = 0

    def next(self, retry_after: float = 0.0) -> float:
        """Seconds to wait before the next attempt.

        Args:
            retry_after: what the peer asked for; it is never undercut, but a peer cannot send us away for longer
                than `MAX_RETRY_AFTER`.
        """
        # 2**32 is past any cap: the exponent stops there so that a node left alone for years does not overflow.
        ceiling = min(self._cap, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return min(max(retry_after, 0.0), MAX_RETRY_AFTER) + self._rng.uniform(0.0, ceiling)
