"""The noise that makes sampling repeatable: a function of (seed, position, token id) and of nothing else.

Counter-based (Philox 4x64, Salmon et al. 2011), so that a row is addressable without drawing those before it, and two
machines that never met draw the same one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT_ROWS", "SEED_BYTES", "Noise", "gumbel_row", "uniform_row"]

SEED_BYTES = 16
KEPT_ROWS = 64
"""Of one session, 1.2 MB each at a vocabulary of 150,000. Who needs more at once draws some of them again."""
TOKEN_DOMAIN = 0
"""Any other use of the generator takes another domain: noise is never used twice."""


def uniform_row(seed: bytes, position: int, size: int, domain: int = TOKEN_DOMAIN) -> NDArray[np.float64]:
    """Uniform draws in (0, 1), shape (size,), for one absolute position."""
    generator = np.random.Philox(key=int.from_bytes(seed, "little"), counter=[0, 0, domain, position])
    raw: NDArray[np.uint64] = generator.random_raw(size)
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbel_row(seed: bytes, position: int, size: int) -> NDArray[np.float64]:
    """Standard Gumbel draws, shape (size,): argmax(log p + G) is a sample of p (Gumbel 1954; Maddison et al. 2014)."""
    return np.asarray(-np.log(-np.log(uniform_row(seed, position, size))))


class Noise:
    """The rows of one session, kept from when they are drawn, perhaps ahead of need, until their position is settled.

    They are KEPT_ROWS at most.
    """

    def __init__(self, seed: bytes, vocab_size: int) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._seed = seed
        self._size = vocab_size
        self._rows: dict[int, NDArray[np.float64]] = {}

    def row(self, position: int) -> NDArray[np.float64]:
        """Milliseconds where it has not been drawn yet and the vocabulary is large."""
        row = self._rows.get(position)
        if row is None:
            if len(self._rows) >= KEPT_ROWS:
                del self._rows[next(iter(self._rows))]  # the one that was drawn first
            row = self._rows[position] = gumbel_row(self._seed, position, self._size)
        return row

    def settle(self, position: int) -> None:
        """Forget every row before `position`."""
        for past in [p for p in self._rows if p < position]:
            del self._rows[past]
