"""A drafter without weights: what followed the last time the text ended like this (prompt lookup, Saxena 2023)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.models.base import ModelInfo, Rows
from wanspec_p2p.models.segments import CachedTokens, check_batch
from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment, TokenId

__all__ = ["NgramModel"]

LONGEST, SHORTEST = 4, 2
CANDIDATES = 4
BEST_SCORE, SCORE_STEP = 24.0, 2.0  # e^24 outweighs a vocabulary of a million equal entries at temperature 1


class NgramModel:
    """A `LanguageModel` whose row is peaked on the continuations of the longest earlier match of the prefix's end.

    Matches of LONGEST down to SHORTEST tokens count, longer before shorter and later before earlier; the first
    CANDIDATES different continuations score BEST_SCORE, then SCORE_STEP less each. Without a match all entries are
    equal: no opinion.

    Args:
        tokenizer: fingerprint of the tokenizer whose ids it is given.
        vocab_size: width of a row.
        context: positions; its memory is the prefix alone.
    """

    def __init__(self, *, tokenizer: str, vocab_size: int, context: int, eos: tuple[TokenId, ...] = ()) -> None:
        engine = f"wanspec-ngram 1 / {LONGEST}-{SHORTEST}"
        digest = hashlib.sha256(engine.encode()).hexdigest()
        self._caches: dict[str, CachedTokens] = {}
        self._info = ModelInfo(
            name="ngram",
            digest=digest,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            context=context,
            dtype=Dtype.FLOAT32,
            device=Device.CPU,
            engine=engine,
            fingerprint=hashlib.sha256(f"{engine} {tokenizer}".encode()).hexdigest(),
            exactness=ExactnessClass.BITWISE,
            eos=eos,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        check_batch(batch, self._caches, vocab_size=self._info.vocab_size, context=self._info.context)
        await asyncio.sleep(0)  # microseconds a row: no thread, but a turn for the others
        return [self._run(segment) for segment in batch]

    def _run(self, segment: Segment) -> Rows:
        cache = self._caches.setdefault(segment.cache, CachedTokens())
        cache.apply(segment)
        rows = np.zeros((segment.rows, self._info.vocab_size), np.float32)
        prefix = np.asarray(cache.tokens)
        for row, path in zip(rows, cache.row_paths(segment), strict=True):
            self._fill(row, np.concatenate((prefix, np.asarray(path, np.int64))))
        return rows

    def _fill(self, row: NDArray[np.float32], prefix: NDArray[np.int64]) -> None:
        for rank, token in enumerate(continuations(prefix)):
            row[token] = BEST_SCORE - SCORE_STEP * rank

    async def release(self, cache: str) -> None:
        self._caches.pop(cache, None)

    async def close(self) -> None:
        self._caches.clear()


def continuations(prefix: NDArray[np.int64]) -> list[TokenId]:
    """At most CANDIDATES different tokens that followed the longest and latest earlier matches of the prefix's end."""
    found: list[TokenId] = []
    if len(prefix) <= SHORTEST:
        return found
    # ends[i]: how many tokens before position i equal the last tokens of the prefix, up to LONGEST.
    last = len(prefix)
    lengths = np.zeros(last, np.int64)
    alive = np.ones(last, np.bool_)
    for back in range(1, min(LONGEST, last - 1) + 1):
        alive[:back] = False
        alive[back:] &= prefix[: last - back] == prefix[last - back]
        lengths += alive
    candidates = np.flatnonzero(lengths >= SHORTEST)
    order = np.lexsort((-candidates, -lengths[candidates]))
    for position in candidates[order]:
        token = int(prefix[position])
        if token not in found:
            found.append(token)
            if len(found) == CANDIDATES:
                break
    return found
