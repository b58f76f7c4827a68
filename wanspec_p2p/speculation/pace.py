"""What passes cost and what they bring, measured: the prices that every decision of a target is made with."""

from __future__ import annotations

from wanspec_p2p.speculation.calibration import RankTable, Reliability
from wanspec_p2p.types import PeerId

__all__ = ["Knowledge", "Pace", "PassCost"]

MEMORY = 0.95
ROW_PRIOR = 0.01
"""Share of a pass that one more row costs, before widths have been compared: an accelerator's is less, a CPU's more."""
PRIOR_WEIGHT = 128.0
"""Of that prior, in squared rows: it has gone when widths have varied by some ten rows for a few rounds."""
MAX_PEERS = 4096


class PassCost:
    """Seconds of a pass as a line over its width, by least squares with fading memory."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    def measured(self, width: int, seconds: float) -> None:
        """A pass over `width` candidates took so long."""
        self._n = MEMORY * self._n + 1.0
        self._x = MEMORY * self._x + width
        self._y = MEMORY * self._y + seconds
        self._xx = MEMORY * self._xx + width**2
        self._xy = MEMORY * self._xy + width * seconds

    @property
    def mean(self) -> float:
        return self._y / self._n if self._n else 0.0

    @property
    def per_row(self) -> float:
        """Seconds that one more candidate takes."""
        if not self._n:
            return 0.0
        spread = self._xx - self._x**2 / self._n
        slope = self._xy - self._x * self._y / self._n
        return max(0.0, (slope + PRIOR_WEIGHT * ROW_PRIOR * self.mean) / (spread + PRIOR_WEIGHT))


class Pace:
    """Tokens per second of model time that a session makes, lately: what any other use of that time must beat."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def spent(self, seconds: float) -> None:
        self._seconds += seconds

    def made(self, tokens: int) -> None:
        """A round is over."""
        self._tokens = MEMORY * (self._tokens + tokens)
        self._seconds *= MEMORY

    @property
    def rate(self) -> float:
        """0 before the first round."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0


class Knowledge:
    """What one target has learned and all its sessions share: drafters' reliability, costs, its own drafter's ranks."""

    def __init__(self) -> None:
        self.verify = PassCost()
        self.local = PassCost()
        self.table = RankTable()
        self._reliability: dict[PeerId, Reliability] = {}

    def reliability(self, peer: PeerId) -> Reliability:
        known = self._reliability.get(peer)
        if known is None:
            if len(self._reliability) >= MAX_PEERS:
                del self._reliability[next(iter(self._reliability))]
            known = self._reliability[peer] = Reliability()
        return known
