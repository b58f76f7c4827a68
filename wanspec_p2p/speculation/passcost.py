"""What a pass takes by its width: flat up to a bend, a straight line beyond it.

An accelerator reads its weights once for all rows of a pass, so that rows are next to free until arithmetic takes
longer than reading (the roofline of Williams et al., CACM 52(4), 2009); a CPU's bend lies at a few rows. Where it is,
and what rows beyond it take, is learned from passes as they come.
"""

from __future__ import annotations

import itertools
import math

__all__ = ["PassCost"]

MEMORY = 0.98
BENDS = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Rows at which the bend is looked for; one that lies between two of them is taken for the nearer one."""
ROW_PRIOR = 0.01
"""Share of a pass that a row beyond the bend costs, before any were seen: an accelerator's is less, a CPU's more."""
DOUBT = 128.0
"""Of that prior, in squared rows: it has gone when widths have varied by some ten rows for a few passes."""

SAME = 0.001
"""Of a pass: what two fits differ by less in is noise of the arithmetic."""


class _Fit:
    """Least squares with fading memory, of seconds over the rows beyond one bend."""

    def __init__(self, bend: int, doubt: float) -> None:
        self.bend, self._doubt = bend, doubt
        self._x = self._xx = self._xy = 0.0

    def measured(self, width: int, seconds: float) -> None:
        beyond = max(0, width - self.bend)
        self._x = MEMORY * self._x + beyond
        self._xx = MEMORY * self._xx + beyond**2
        self._xy = MEMORY * self._xy + beyond * seconds

    @property
    def untried(self) -> bool:
        """No pass was wider than the bend lately."""
        return self._xx < 1.0

    def solved(self, n: float, y: float) -> tuple[float, float, float]:
        """Seconds before the bend, seconds a row beyond it, and how much of the variance that leaves unexplained: less
        than another fit of the same passes is better.

        Args:
            n, y: weight of all passes, and the sum of their seconds.
        """
        mean = y / n
        prior = ROW_PRIOR * mean
        spread, shared = self._xx - self._x**2 / n, self._xy - self._x * mean
        slope = max(0.0, (shared + self._doubt * prior) / (spread + self._doubt))
        unexplained = slope**2 * spread - 2.0 * slope * shared + self._doubt * (slope - prior) ** 2
        return max(0.0, mean - slope * self._x / n), slope, unexplained


class PassCost:
    """Of the passes of one model, fading. Before the first one everything is free.

    Args:
        doubt: of a slope that few rows tell of: with less it is believed sooner, and noise is, too.
    """

    def __init__(self, doubt: float = DOUBT) -> None:
        self._n = self._y = 0.0
        self._fits = [_Fit(bend, doubt) for bend in BENDS]
        self._bend = 0
        self._flat = self._per_row = 0.0
        self._after: float | None = None

    @property
    def mean(self) -> float:
        """Seconds of the last passes."""
        return self._y / self._n if self._n else 0.0

    def measured(self, width: int, seconds: float) -> None:
        """A pass of `width` rows took so long."""
        self._n = MEMORY * self._n + 1.0
        self._y = MEMORY * self._y + seconds
        for fit in self._fits:
            fit.measured(width, seconds)
        best = math.inf
        # Of fits that explain the same the one with the first bend: it holds narrower passes cheaper and wider ones
        # dearer than the others do, so that the former are tried, and the latter with care.
        for fit, after in itertools.zip_longest(self._fits, self._fits[1:]):
            flat, per_row, unexplained = fit.solved(self._n, self._y)
            if unexplained < best - (SAME * self.mean) ** 2:
                best, self._flat, self._per_row = unexplained, flat, per_row
                # Where nothing was seen beyond the bend, it may as well lie a step further: else nothing ever would be.
                self._bend = after.bend if fit.untried and after is not None else fit.bend

    def followed(self, seconds: float) -> None:
        """Before another pass could begin, what the last one brought had to be taken in for so long."""
        self._after = seconds if self._after is None else MEMORY * self._after + (1.0 - MEMORY) * seconds

    def per_row(self, width: int) -> float:
        """Seconds that one more row adds to a pass of `width`; never less for a wider pass."""
        return self._per_row if width >= self._bend else 0.0

    def seconds(self, width: int) -> float:
        """Of a pass of so many rows, and of what follows it."""
        return self._flat + self._per_row * max(0, width - self._bend) + (self._after or 0.0)

    def widest(self, seconds: float) -> float:
        """Rows of the widest pass that takes no longer; infinite where rows cost nothing."""
        if self._per_row <= 0.0:
            return math.inf
        return max(0.0, self._bend + (seconds - self._flat) / self._per_row)
