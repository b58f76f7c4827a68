"""What a pass takes by its width: flat up to a bend, a straight line beyond it.

An accelerator reads its weights once for all rows of a pass, so that rows are next to free until arithmetic takes
longer than reading (the roofline of Williams et al., CACM 52(4), 2009); a CPU's bend lies at a few rows. Where it is,
and what rows beyond it take, is learned from passes as they come.
"""

from __future__ import annotations

import math

import numpy as np

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
_BENDS = np.array(BENDS, dtype=np.float64)


class PassCost:
    """Of the passes of one model, fading. Before the first one everything is free.

    Args:
        doubt: of a slope that few rows tell of: with less it is believed sooner, and noise is, too.
    """

    def __init__(self, doubt: float = DOUBT) -> None:
        self._doubt = doubt
        self._n = self._y = 0.0  # weight of all passes, and the sum of their seconds
        # Of the rows beyond each bend: their sum, that of their squares, and that of their products with the seconds.
        self._x, self._xx, self._xy = np.zeros((3, len(BENDS)))
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
        beyond = np.maximum(0.0, width - _BENDS)
        self._x = MEMORY * self._x + beyond
        self._xx = MEMORY * self._xx + beyond**2
        self._xy = MEMORY * self._xy + beyond * seconds
        self._fit()

    def _fit(self) -> None:
        """Least squares for each bend, the slope leaning on what is held before rows were seen; the best counts."""
        mean = self.mean
        prior = ROW_PRIOR * mean
        spread, shared = self._xx - self._x**2 / self._n, self._xy - self._x * mean
        slope = np.maximum(0.0, (shared + self._doubt * prior) / (spread + self._doubt))
        unexplained = slope**2 * spread - 2.0 * slope * shared + self._doubt * (slope - prior) ** 2
        # Of fits that explain the same the one with the first bend: it holds narrower passes cheaper and wider ones
        # dearer than the others do, so that the former are tried, and the latter with care.
        best, at = math.inf, 0
        for number, left in enumerate(unexplained.tolist()):
            if left < best - (SAME * mean) ** 2:
                best, at = left, number
        self._per_row = float(slope[at])
        self._flat = max(0.0, mean - self._per_row * float(self._x[at]) / self._n)
        # Where no pass was wider lately, the bend may as well lie a step further: else nothing ever would be.
        untried = float(self._xx[at]) < 1.0
        self._bend = BENDS[min(at + untried, len(BENDS) - 1)]

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
