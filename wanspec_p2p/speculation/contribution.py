"""What a drafter is worth to a target: tokens of the answer that it brings a round, in time, as measured.

How right it is, how soon its drafts come and what else it is busy with are all in this one figure, and nothing it says
of itself is. A node nobody has seen for long is expected to bring what nodes here usually bring.
"""

from __future__ import annotations

import math

__all__ = ["Contribution", "Originality"]

MEMORY = 0.97
DOUBT = 8.0
"""Rounds that what is usual counts for."""
MEAN_LIFE_SECONDS = 600.0
"""Of what was seen of a drafter: it may be another by then, and only drafting tells."""
LEAST_USUAL = 0.25
"""Where all that were seen bring next to nothing, others may still be better."""
FRUITLESS_ROUNDS, FRUITLESS_SECONDS = 256, 30.0
"""Without a single token of the answer: more than it takes to read a prompt, or to come from the far end of a slow
link, and more than many answers that begin at once last until the first draft comes."""

MOST_CROSSED = 64
"""Right tokens that may cross our word of them on the way, beyond those that do so where a drafter has thoughts of its
own."""
CROSSED_FOR_OWN = 8
"""As many may for each that we had not told of."""


class Contribution:
    """Of one drafter, or of all of them."""

    def __init__(self) -> None:
        self._tokens = self._rounds = 0.0
        self._seen = -math.inf
        self._barren_rounds, self._barren_since = 0, 0.0

    def round(self, tokens: int, at: float) -> None:
        """A session that it drafts for settled a round, so many of whose tokens it had drafted."""
        left = MEMORY * self._left(at)
        self._tokens = left * self._tokens + tokens
        self._rounds = left * self._rounds + 1.0
        self._seen = at
        if tokens:
            self._barren_rounds = 0
        else:
            if not self._barren_rounds:
                self._barren_since = at
            self._barren_rounds += 1

    @property
    def usual(self) -> float:
        """Tokens a round that one who was never seen is expected to bring, where these rounds were those of all."""
        return max(LEAST_USUAL, self._tokens / self._rounds) if self._rounds else 1.0

    def expected(self, usual: float, at: float) -> float:
        """Tokens a round.

        Args:
            usual: what would be expected of it if it had not been seen.
        """
        left = self._left(at)
        return (left * self._tokens + DOUBT * usual) / (left * self._rounds + DOUBT)

    def fruitless(self, at: float) -> bool:
        """Whether it has drafted for long, and for nothing."""
        return self._barren_rounds >= FRUITLESS_ROUNDS and at - self._barren_since >= FRUITLESS_SECONDS

    def _left(self, at: float) -> float:
        """Of what was seen."""
        return math.exp(-max(0.0, at - self._seen) / MEAN_LIFE_SECONDS)


class Originality:
    """Whether what a drafter brings that it was told of shortly before can have crossed our words, as often as it does.

    How far away it is, a drafter can make look more than it is, by being slow with its pongs. One that sends back what
    it was told has nothing of its own, however far away it seems.
    """

    def __init__(self) -> None:
        self._crossed = 0  # beyond what its own are worth

    def brought(self, own: int, crossed: int) -> None:
        """So many right tokens that we had not told it of, and so many that we had, maybe too late for it to hear."""
        self._crossed = max(0, self._crossed + crossed - CROSSED_FOR_OWN * own)

    @property
    def doubtful(self) -> bool:
        return self._crossed >= MOST_CROSSED
