"""A drafter that also copies: what its model expects, mixed with what followed where the text ended like this before.

A small model forgets what a long prompt said; a look-up (prompt lookup, Saxena 2023) knows nothing else. Mixed as in
pointer-sentinel models (Merity et al., arXiv 1609.07843) and the neural cache (Grave et al., arXiv 1612.04426), with a
weight that depends on the length of the match, they are right where either is (docs/decisions/0011-drafters-copy.md).
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.models.repeats import Repeat, RepeatIndex
from wanspec_p2p.models.segments import CachedTokens, check_batch
from wanspec_p2p.types import Segment, TokenId

__all__ = ["COPYING_FILE", "MOST", "CopyWeights", "CopyingModel", "mix", "read_weights"]

COPYING_FILE = "copying.json"
ENGINE = "copying 1"
MOST = 0.999
"""No weight above it: a model is never silenced, and the log of its share exists."""


class CopyWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a match counts beside the model: `weights[i]` for matches of `lengths[i]` tokens and more.

    Raises:
        ValueError: the two do not belong together, or a value is outside its range.
    """

    lengths: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lengths or len(self.lengths) != len(self.weights):
            raise ValueError("lengths and weights must be as many, and at least one")
        if self.lengths[0] < 1 or any(a >= b for a, b in itertools.pairwise(self.lengths)):
            raise ValueError("lengths must ascend from 1 or more")
        if not all(0 <= weight <= MOST for weight in self.weights):
            raise ValueError(f"weights must be between 0 and {MOST}")

    def of(self, length: int) -> float:
        """The weight of a match of `length` tokens; 0 where it is shorter than any in `lengths`."""
        at = bisect.bisect_right(self.lengths, length) - 1
        return self.weights[at] if at >= 0 else 0.0


def read_weights(directory: Path) -> CopyWeights | None:
    """What COPYING_FILE of a model directory says; None where there is none.

    Raises:
        ModelError: it is not readable, or not of this form.
    """
    path = directory / COPYING_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=CopyWeights)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path} cannot be used ({error}): put the drafter's own back, or delete it") from error


def mix(row: NDArray[np.float32], repeat: Repeat, weight: float) -> None:
    """Turn the logits `row`, in place, into those of (1 - weight) · softmax(row) + weight · repeat.shares.

    A row stands for its law up to a constant, so only the logits of the tokens that are copied change: by a weight
    beside the row's whole mass, at temperature 1. A row that is no law, not being of numbers, stays as it is.
    """
    top = float(row.max())
    if not weight or not math.isfinite(top):
        return
    total = top + math.log(float(np.exp(row - np.float32(top)).sum()))
    for token, share in repeat.shares.items():
        row[token] = np.logaddexp(row[token], total + math.log(weight * share / (1 - weight)))


class CopyingModel:
    """A `LanguageModel` that mixes copies from prefix and path into each row of another one.

    Looking up and mixing take a tenth of a millisecond a row, mostly the sum over the vocabulary, and taking a new text
    in a millisecond for some hundred tokens: no thread.

    Args:
        model: closed with this one; nobody else may use it.
    """

    def __init__(self, model: LanguageModel, weights: CopyWeights) -> None:
        self._model = model
        self._weights = weights
        self._caches: dict[str, CachedTokens] = {}
        self._indices: dict[str, RepeatIndex] = {}
        engine = f"{model.info.engine} / {ENGINE}"
        facts = f"{model.info.fingerprint} {ENGINE} {msgspec.json.encode(weights).decode()}"
        self._info = dataclasses.replace(
            model.info, engine=engine, fingerprint=hashlib.sha256(facts.encode()).hexdigest()
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        # Everything the model would refuse is refused here, so that what is taken in now is what it takes in.
        check_batch(batch, self._caches, vocab_size=self._info.vocab_size, context=self._info.context)
        repeats = [self._repeats(segment) for segment in batch]
        try:
            rows = await self._model.forward(batch)
        except (Exception, asyncio.CancelledError):
            for segment in batch:
                self._forget(segment.cache)
            raise
        return [self._mixed(own, found) for own, found in zip(rows, repeats, strict=True)]

    def _repeats(self, segment: Segment) -> list[Repeat | None]:
        """Take a checked segment in, and look up every row of it."""
        cache = self._caches.setdefault(segment.cache, CachedTokens())
        index = self._indices.setdefault(segment.cache, RepeatIndex())
        cache.apply(segment)
        index.truncate(segment.length)
        index.extend(cache.tokens[segment.length :])
        found: list[Repeat | None] = []
        above: list[TokenId] = []
        for path in cache.row_paths(segment):
            # A row mostly follows the one before it, and differs in the last token alone.
            shared = _shared(above, path)
            index.truncate(len(cache.tokens) + shared)
            index.extend(path[shared:])
            found.append(index.repeat())
            above = path
        index.truncate(len(cache.tokens))
        return found

    def _mixed(self, rows: Rows, repeats: Sequence[Repeat | None]) -> Rows:
        rows = rows.copy()  # they may be the model's own
        for row, repeat in zip(rows, repeats, strict=True):
            if repeat is not None:
                mix(row, repeat, self._weights.of(repeat.length))
        return rows

    async def release(self, cache: str) -> None:
        self._forget(cache)
        await self._model.release(cache)

    def _forget(self, cache: str) -> None:
        self._caches.pop(cache, None)
        self._indices.pop(cache, None)

    async def close(self) -> None:
        self._caches.clear()
        self._indices.clear()
        await self._model.close()


def _shared(one: Sequence[TokenId], other: Sequence[TokenId]) -> int:
    """How many tokens both begin with."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
