"""When the next verdict is due: a pass begun just before it runs what the verdict is about to contradict.

A drafter that knows it lets its model rest for the moment before, so that the next pass begins with what the verdict
says, and falls into step with the target (docs/decisions/0020-drafters-fall-into-step.md). Verdicts come at the pace of
the target's passes; a target whose rounds are uneven, because it drafts as well, announces each
(docs/decisions/0028-uneven-verdicts-are-announced.md).
"""

from __future__ import annotations

__all__ = ["Rhythm"]

MEAN_GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4
"""RFC 6298 §2.3 smooths round-trip times so."""
KNOWN = 2
"""Distances between verdicts that say enough."""
WORTH = 0.5
"""Of a pass: waiting longer costs more than what a stale one wastes, since some of what it runs survives."""
LEAST_MARGIN = 1 / 8
"""Of a pass: a verdict may be so late, however even the rhythm was."""


class Rhythm:
    """Of one session's verdicts, in seconds.

    Each is expected so long after the last one, or so long after what was announced for it, as the earlier ones were.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # the last verdict, or what was announced; None: nothing is expected
        self._announced = False
        self._mean = self._deviation = 0.0
        self._known = 0

    def announced(self, due: float) -> None:
        """The next verdict is to come then."""
        if not self._announced:
            self._announced = True
            self._mean, self._deviation, self._known = 0.0, 0.0, KNOWN
        self._since = due

    def heard(self, at: float) -> None:
        """A verdict came."""
        if self._since is not None:
            gap = at - self._since
            if self._known == 0:
                self._mean = gap
            elif self._known == 1:
                self._deviation = abs(gap - self._mean) / 2.0
                self._mean = (gap + self._mean) / 2.0
            else:
                self._deviation += DEVIATION_GAIN * (abs(gap - self._mean) - self._deviation)
                self._mean += MEAN_GAIN * (gap - self._mean)
            self._known += 1
        self._since = None if self._announced else at

    def pause(self, now: float, pass_seconds: float) -> float:
        """How long a pass that could begin now, and takes so long, had better wait for the verdict; 0: not at all."""
        if self._since is None or self._known < KNOWN:
            return 0.0
        due, most = self._since + self._mean, WORTH * pass_seconds
        margin = max(2.0 * self._deviation, LEAST_MARGIN * pass_seconds)
        if due + self._deviation > now + most or due + margin <= now:  # too far off, or who knows when
            return 0.0
        return max(due - now, 0.0) + min(margin, most)
