"""How long simulated passes take, and that those of one device follow each other."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from wanspec_p2p.links.memory import NANOSECONDS

__all__ = ["CostCurve", "DeviceTime", "LastPass", "Measured", "Steps", "WithCode", "flat"]

PAUSES = 1024


class CostCurve(Protocol):
    """Seconds of a pass over so many rows. A prompt is one row, however long: prefill is not what is studied here."""

    def seconds(self, rows: int) -> float: ...


class Measured:
    """Straight lines between measured widths; as the narrowest below it, and beyond the widest in proportion to it.

    Args:
        points: (rows, seconds), rows ascending.

    Raises:
        ValueError: there are no points, they do not ascend, or a pass takes no time.
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        if not points or points[0][0] < 1 or any(b[0] <= a[0] for a, b in itertools.pairwise(points)):
            raise ValueError("a cost curve has points, their rows ascending from 1 or more")
        if not all(0.0 < seconds < math.inf for _, seconds in points):
            raise ValueError("every pass takes more than 0 seconds")
        self._points = tuple(points)
        self._rows = [rows for rows, _ in points]

    def seconds(self, rows: int) -> float:
        after = bisect_right(self._rows, rows)
        if after == 0:
            return self._points[0][1]
        low_rows, low = self._points[after - 1]
        if after == len(self._points):
            return low * rows / low_rows
        high_rows, high = self._points[after]
        return low + (high - low) * (rows - low_rows) / (high_rows - low_rows)


def flat(seconds: float, nodes: int) -> Measured:
    """A target's curve: so long for the last token and up to `nodes` tree nodes, in proportion to the rows beyond."""
    return Measured(((nodes + 1, seconds),))


class Steps:
    """So many seconds for each full or begun `rows` rows: a drafter that runs batches of that size.

    Raises:
        ValueError: either is not above 0.
    """

    def __init__(self, seconds: float, rows: int) -> None:
        if not (0.0 < seconds < math.inf and rows > 0):
            raise ValueError("a step takes more than 0 seconds and has more than 0 rows")
        self._seconds, self._rows = seconds, rows

    def seconds(self, rows: int) -> float:
        return self._seconds * -(-rows // self._rows)


class WithCode:
    """A curve whose passes take so many seconds longer: those of the code around the model."""

    def __init__(self, curve: CostCurve, seconds: float) -> None:
        self._curve, self._seconds = curve, seconds

    def seconds(self, rows: int) -> float:
        return self._curve.seconds(rows) + self._seconds


class LastPass:
    """When the last pass of a machine ended; None: there was none."""

    def __init__(self) -> None:
        self.ended_at: float | None = None


class DeviceTime:
    """The time of one device, by the running loop's clock: a pass begins when the one asked for before it has ended.

    A pass that was begun runs to its end, even if whoever waits for it is cancelled; so do those of real engines.

    Args:
        speed: how much faster than `cost` this device is.
        jitter: share by which a pass may take more or less, evenly spread.
        rng: draws it; needed where there is jitter.
        last: shared by models that take turns on one machine, for `pauses`.

    Attributes:
        late: seconds, in sum, by which passes ended after their time: 0 in virtual time.
        pauses: seconds before each pass, since the last one of the machine had ended; the last PAUSES of them.

    Raises:
        ValueError: no such speed or jitter.
    """

    def __init__(
        self,
        cost: CostCurve,
        *,
        speed: float = 1.0,
        jitter: float = 0.0,
        rng: random.Random | None = None,
        last: LastPass | None = None,
    ) -> None:
        if not 0.0 < speed < math.inf:
            raise ValueError(f"speed must be above 0, not {speed}")
        if not 0.0 <= jitter < 1.0:
            raise ValueError(f"jitter must be from 0 to below 1, not {jitter}")
        if jitter and rng is None:
            raise ValueError("jitter needs a source of randomness")
        self._cost, self._speed, self._jitter, self._rng = cost, speed, jitter, rng
        self._free_at = -math.inf
        self._last = last or LastPass()
        self.late = 0.0
        self.pauses: deque[float] = deque(maxlen=PAUSES)

    async def run(self, rows: int, asked_at: float | None = None) -> None:
        """Until a pass over `rows` rows has ended.

        Args:
            asked_at: when it was asked for, by the running loop's clock; None: now. What was computed since is part of
                it, and makes it no longer.
        """
        loop = asyncio.get_running_loop()
        seconds = self._cost.seconds(rows) / self._speed
        if self._rng is not None and self._jitter:
            seconds *= self._rng.uniform(1.0 - self._jitter, 1.0 + self._jitter)
        begun = loop.time() if asked_at is None else asked_at
        if self._last.ended_at is not None:
            self.pauses.append(max(0.0, begun - self._last.ended_at))
        ends = max(begun, self._free_at) + seconds
        ends = self._free_at = round(ends, NANOSECONDS)
        await _until(ends, loop)
        self._last.ended_at = ended_at = loop.time()
        self.late += max(0.0, ended_at - ends)


async def _until(when: float, loop: asyncio.AbstractEventLoop) -> None:
    """As `asyncio.sleep`, to the very moment: the difference of two times need not lead from one to the other."""
    future: asyncio.Future[None] = loop.create_future()
    timer = loop.call_at(when, future.set_result, None)
    try:
        await future
    finally:
        timer.cancel()
