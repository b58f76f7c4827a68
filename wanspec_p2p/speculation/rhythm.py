"""When the next verdict is due: a pass begun just before it runs what the verdict is about to contradict.

Verdicts come at the pace of the target's passes. A drafter that knows it lets its model rest for the moment before one,
so that the next pass begins with what it says, and falls into step with the target
(docs/decisions/0020-drafters-fall-into-step.md).
"""

from __future__ import annotations

__all__ = ["Rhythm"]

MEAN_GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4
"""RFC 6298 §2.3 smooths round-trip times so."""
KNOWN = 3
"""Verdicts whose distances say enough."""
WORTH = 0.5
"""Of a pass: waiting longer costs more than what a stale one wastes, since some of what it runs survives."""
LEAST_MARGIN = 1 / 8
"""Of a pass: a verdict may be so late, however even the rhythm was."""


class Rhythm:
    """Of one session's verdicts, in seconds."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._mean = self._deviation = 0.0
        self._heard = 0

    def heard(self, at: float) -> None:
        """A verdict came."""
        if self._last is not None:
            gap = at - self._last
            if self._heard == 1:
                self._mean, self._deviation = gap, gap / 2.0
            else:
                self._deviation += DEVIATION_GAIN * (abs(gap - self._mean) - self._deviation)
                self._mean += MEAN_GAIN * (gap - self._mean)
        self._last = at
        self._heard += 1

    def pause(self, now: float, pass_seconds: float) -> float:
        """How long a pass that could begin now, and takes so long, had better wait for the verdict; 0: not at all."""
        if self._last is None or self._heard < KNOWN:
            return 0.0
        due, most = self._last + self._mean, WORTH * pass_seconds
        margin = max(2.0 * self._deviation, LEAST_MARGIN * pass_seconds)
        if due + self._deviation > now + most or due + margin <= now:  # too far off, or who knows when
            return 0.0
        return min(most, max(due - now, 0.0) + margin)
