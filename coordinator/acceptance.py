"""How often each drafter model is right about each target model, and whether it is less often than it used to be.

The figures are sums over receipts, by pair of models, UTC day and depth; targets measure them with every round. A
drafter that is no longer right as often, because its target has been replaced or is asked other things, shows here
long before anybody notices that answers come more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from wanspec_p2p.types import PeerId

__all__ = [
    "DAYS_KEPT",
    "RECENT_DAYS",
    "SECONDS_A_DAY",
    "Acceptance",
    "ModelPair",
    "Positions",
    "Voices",
    "by_pair",
    "day_of",
]

DAYS_KEPT = 90
"""Days with receipts. Older ones are forgotten, so that "before" is about the drafter as it is used now. By number
and not by the clock: a day on which that was ahead pushes out one day, not all."""
SECONDS_A_DAY = 86_400.0
RECENT_DAYS = 2
"""The current UTC day and the one before: just after midnight there is still something recent to see."""
ENOUGH = 300
"""Positions on either side below which nothing is said: a handful of answers."""
MAX_VOICES = 16
"""Targets whose word of one node, or of one pair of models, is kept: those that spoke last."""
VOICE_SECONDS = 21_600.0
"""After which a target that has said nothing more is not heard any longer: a quarter of a day."""
SIGMAS = 3.0
DROP = 0.9
"""Recent acceptance is worth a word below this share of what it was. Positions of one answer are alike, and with many
of them every small change of what people ask is significant."""
ADVICE = "this drafter may no longer fit its target; see docs/how-to/train-a-drafter.md"


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Names are what operators chose; the digests tell apart two models of one name."""

    target: str
    target_digest: str
    drafter: str
    drafter_digest: str

    @property
    def names(self) -> tuple[str, str]:
        return self.target, self.drafter


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions a drafter had drafted for and where the token before was right; of these, those it was right about."""

    reached: int = 0
    right: int = 0

    @property
    def alpha(self) -> float | None:
        """None where nothing is known."""
        return self.right / self.reached if self.reached else None

    def __add__(self, other: Positions) -> Positions:
        return Positions(self.reached + other.reached, self.right + other.right)

    def at_most(self, reached: int) -> Positions:
        """As many positions in the same proportion: what comes after them counts for more than what was before."""
        if self.reached <= reached:
            return self
        return Positions(reached, round(self.right * reached / self.reached))


class Voices:
    """What targets say of one node, or of one pair of models: as many positions of each as it may be heard with.

    A target says what it likes, so its word is one among several, of which old ones fade: by what it says later, and
    by time, since a node that is thought badly of is not asked, and could never show that it is well again.
    """

    __slots__ = ("_loudest", "_said")

    def __init__(self, loudest: int) -> None:
        self._loudest = loudest
        self._said: dict[PeerId, tuple[Positions, float]] = {}  # and when last, the latest last

    def hear(self, target: PeerId, positions: Positions, at: float) -> None:
        if not positions.reached:
            return
        before, said_at = self._said.pop(target, (Positions(), at))
        if at - said_at >= VOICE_SECONDS:
            before = Positions()
        self._said[target] = (before + positions).at_most(self._loudest), at
        if len(self._said) > MAX_VOICES:
            del self._said[next(iter(self._said))]

    def together(self, at: float) -> Positions:
        reached = right = 0
        for said, when in self._said.values():
            if at - when < VOICE_SECONDS:
                reached += said.reached
                right += said.right
        return Positions(reached, right)


@dataclass(slots=True)
class Acceptance:
    """One pair's figures. `by_depth` is over all days kept; depth 1 is the token after the committed prefix.

    `before` holds the earlier days of all pairs of these two names: who replaces a model under its name starts a pair
    without a past, and that is when a drafter is most likely to fit no more.
    """

    pair: ModelPair
    by_depth: dict[int, Positions] = field(default_factory=dict)
    recent: Positions = Positions()
    before: Positions = Positions()

    @property
    def total(self) -> Positions:
        return sum(self.by_depth.values(), Positions())

    @property
    def misfit(self) -> str | None:
        """Why the drafter may no longer fit its target, in words; None where nothing speaks for it.

        Significant in the pooled two-proportion z test, and large enough to matter.
        """
        recent, before = self.recent, self.before
        if min(recent.reached, before.reached) < ENOUGH:
            return None
        now, then, pooled = (p.right / p.reached for p in (recent, before, recent + before))
        error = math.sqrt(pooled * (1 - pooled) * (1 / recent.reached + 1 / before.reached))
        if then - now <= SIGMAS * error or now >= DROP * then:
            return None
        return f"recent acceptance {now:.2f}, before {then:.2f}: {ADVICE}"


def by_pair(sums: Iterable[tuple[ModelPair, int, bool, Positions]]) -> list[Acceptance]:
    """From (pair, depth, whether the days are recent, positions) to one entry a pair, that with the most first."""
    pairs: dict[ModelPair, Acceptance] = {}
    before: dict[tuple[str, str], Positions] = {}
    for pair, depth, recent, positions in sums:
        figures = pairs.setdefault(pair, Acceptance(pair))
        figures.by_depth[depth] = figures.by_depth.get(depth, Positions()) + positions
        if recent:
            figures.recent += positions
        else:
            before[pair.names] = before.get(pair.names, Positions()) + positions
    for figures in pairs.values():
        figures.before = before.get(figures.pair.names, Positions())
    return sorted(pairs.values(), key=lambda figures: -figures.total.reached)


def day_of(wall: float) -> int:
    """Days since 1970-01-01 UTC, from seconds since then."""
    return int(wall // SECONDS_A_DAY)
