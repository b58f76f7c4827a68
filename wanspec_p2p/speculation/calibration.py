"""What a guess is worth: chances learned from verdicts, never taken on faith.

A drafter learns how often the target's token is its first, second, … candidate, given how sure it was (`RankTable`).
It says with each token how likely it thinks it is, given that the token before it is right; the target holds that
against what came true and believes accordingly (`Reliability`). Neither has a constant that belongs to a workload.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX, Ranking
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import TokenId

__all__ = ["RANKS", "RankTable", "Reliability", "chance", "quantised"]

RANKS = 4
"""Candidates a drafter names at one place."""
REACH = 6.0
"""Log-odds that travel lie within this: chances from 0.25 % to 99.75 %, each step 1.1 times the odds of the last."""
BUCKETS = 16
DOUBT = 8.0
"""Observations that a prior counts for."""
MEMORY = 0.998
"""Weight that past observations keep at each new one: about the last five hundred are remembered."""
TRUST_MEMORY = 0.98


@functools.lru_cache(maxsize=4096)
def quantised(probability: float) -> int:
    """A chance as it travels: its log-odds in CONFIDENCE_MAX equal steps."""
    if not 0.0 < probability < 1.0:
        return CONFIDENCE_MAX if probability >= 1.0 else 0
    odds = math.log(probability / (1.0 - probability))
    return max(0, min(CONFIDENCE_MAX, round(CONFIDENCE_MAX * (odds + REACH) / (2.0 * REACH))))


_CHANCES = tuple(1.0 / (1.0 + math.exp(REACH - 2.0 * REACH * q / CONFIDENCE_MAX)) for q in range(CONFIDENCE_MAX + 1))


def chance(confidence: int) -> float:
    """The inverse of `quantised`, to its precision."""
    return _CHANCES[confidence]


class RankTable:
    """Chances that the target's token is a drafter's candidate number 1, 2, …, by the sureness of its row.

    Shared by all sessions of one drafter's model. A bucket of sureness that has seen little leans on all of them
    together, and those on a prior that only says that surer rows are righter.
    """

    def __init__(self) -> None:
        self._seen = [[0.0] * (RANKS + 1) for _ in range(BUCKETS)]
        self._all = [0.0] * (RANKS + 1)
        self._known: list[tuple[float, ...] | None] = [None] * BUCKETS

    def chances(self, sureness: int) -> tuple[float, ...]:
        """One for each of the first RANKS candidates.

        Args:
            sureness: `Ranking.confidence`.
        """
        bucket = _bucket(sureness)
        known = self._known[bucket]
        if known is None:
            known = self._known[bucket] = self._chances(bucket)
        return known

    def typical(self) -> tuple[float, ...]:
        """The same over rows of every sureness."""
        return tuple(_mixed(self._all, _prior(0.5))[:RANKS])

    def learn(self, sureness: int, rank: int | None) -> None:
        """The target's token was candidate number `rank` (from 0), or none of them."""
        bucket = _bucket(sureness)
        slot = RANKS if rank is None or rank >= RANKS else rank
        for counts in (self._seen[bucket], self._all):
            for i in range(RANKS + 1):
                counts[i] *= MEMORY
            counts[slot] += 1.0
        self._known = [None] * BUCKETS

    def settle(self, tree: DraftTree, rankings: Mapping[int, Ranking], tokens: Sequence[TokenId]) -> None:
        """Learn from `tokens`, about to be committed in `tree`.

        Args:
            rankings: the candidates that the model named at places of the tree it has run.
        """
        for place, token in zip((ROOT, *tree.along(tokens)), tokens, strict=False):
            ranking = rankings.get(place)
            if ranking is not None and ranking.tokens:
                self.learn(ranking.confidence, ranking.tokens.index(token) if token in ranking.tokens else None)

    def _chances(self, bucket: int) -> tuple[float, ...]:
        together = _mixed(self._all, _prior((bucket + 0.5) / BUCKETS))
        return tuple(_mixed(self._seen[bucket], together))


class Reliability:
    """How much of what one drafter claims comes true."""

    def __init__(self) -> None:
        self._hits = [0.0] * BUCKETS
        self._decided = [0.0] * BUCKETS
        self._right = 0.0
        self._claimed = 0.0
        self._known: dict[int, float] = {}

    @property
    def honesty(self) -> float:
        """Tokens that were right, of those that its claims promised; never above 1, and 1 to begin with."""
        return min(1.0, (self._right + 1.0) / (self._claimed + 1.0))

    def believed(self, confidence: int) -> float:
        """The chance that a token of this confidence is right where the token before it is."""
        known = self._known.get(confidence)
        if known is None:
            bucket = _bucket(confidence)
            # A drafter that promised too much so far is believed less in what it has not been tried on, too.
            claim = chance(confidence) * self.honesty
            known = (self._hits[bucket] + DOUBT * claim) / (self._decided[bucket] + DOUBT)
            self._known[confidence] = known
        return known

    def decided(self, confidence: int, right: bool) -> None:
        bucket = _bucket(confidence)
        self._hits[bucket] = TRUST_MEMORY * self._hits[bucket] + right
        self._decided[bucket] = TRUST_MEMORY * self._decided[bucket] + 1.0
        self._right = TRUST_MEMORY * self._right + right
        self._claimed = TRUST_MEMORY * self._claimed + chance(confidence)
        self._known.clear()


def _prior(sure: float) -> list[float]:
    first = 0.2 + 0.75 * sure
    # What is left halves from one to the next, and none is likelier than the first.
    return [first, *(min(first, (1.0 - first) * 0.5**k) for k in range(1, RANKS))]


def _bucket(confidence: int) -> int:
    return min(BUCKETS - 1, confidence * BUCKETS // (CONFIDENCE_MAX + 1))


def _mixed(counts: Sequence[float], prior: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [(count + DOUBT * expected) / (total + DOUBT) for count, expected in zip(counts, prior, strict=False)]
