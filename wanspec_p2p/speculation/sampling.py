"""From a row of logits to a token: the rule of docs/topics/exactness.md, used by target and drafter alike.

The target's token is the argmax of its own processed law plus the shared noise. A drafter applies the same rule to its
own logits, which couples the two as well as is possible without communication (Daliri, Musco, Suresh,
arXiv 2408.07978).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.errors import EngineError
from wanspec_p2p.speculation.noise import Noise
from wanspec_p2p.types import Sampling, TokenId

__all__ = ["CONFIDENCE_MAX", "Choice", "Ranking", "Sampler", "kept_by_law", "logprobs"]

CONFIDENCE_MAX = 127
_NEARLY_ALWAYS_ENOUGH = 6.0
"""Nats below the best token within which nearly every nucleus ends."""

Row = NDArray[np.floating]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    token: TokenId
    margin: float  # gap between the two best scores; inf where only one token is left


@dataclass(frozen=True, slots=True)
class Ranking:
    """A drafter's best tokens, best first. Empty: no opinion."""

    tokens: tuple[TokenId, ...]
    confidence: int  # 0..CONFIDENCE_MAX, higher is surer


class Sampler:
    """Turns rows into tokens for one session. Knows the prompt, the answer so far, and the session's noise.

    Args:
        prompt: token ids of the prompt.
        stop_tokens: end-of-sequence ids, banned before `sampling.min_tokens`.
        vocab_size: ids from here on are padding of the model's head and never chosen.
    """

    def __init__(
        self,
        sampling: Sampling,
        seed: bytes,
        vocab_size: int,
        prompt: Sequence[TokenId],
        stop_tokens: Iterable[TokenId] = (),
    ) -> None:
        self.sampling = sampling
        self.noise = Noise(seed, vocab_size)
        self._vocab_size = vocab_size
        self._length = len(prompt)
        self._answer_len = 0
        # Where nothing looks at them, counts are not kept.
        self._seen = _Tally(vocab_size, () if sampling.plain else prompt)
        self._answered = _Tally(vocab_size)
        self._stop_tokens = [t for t in stop_tokens if t < vocab_size]
        bias = [(t, b) for t, b in sampling.logit_bias if t < vocab_size]
        self._buffer = np.empty(vocab_size, dtype=np.float64)
        self._scratch: tuple[Row, Row] | None = None
        self._bias_ids = np.array([t for t, _ in bias], dtype=np.int64)
        self._bias = np.array([b for _, b in bias], dtype=np.float64)

    def commit(self, tokens: Sequence[TokenId]) -> None:
        self._length += len(tokens)
        self._answer_len += len(tokens)
        if not self.sampling.plain:
            self._seen.add(tokens)
            self._answered.add(tokens)
        self.noise.settle(self._length)

    def choose(self, row: Row, path: Sequence[TokenId] = ()) -> Choice:
        """The token after prompt + answer + path, from the logits there (shape (>= vocab_size,)).

        Raises:
            EngineError: there is nothing to choose from: a logit is not a number, or all are minus infinity.
        """
        ids, scores = self._scores(row, path)
        best = int(scores.argmax())  # ties: the lowest index, hence the lowest id
        top = float(scores[best])
        if not math.isfinite(top):
            raise EngineError(f"the model's logits leave nothing to choose from (the best score is {top})")
        rest = max(_most(scores[:best]), _most(scores[best + 1 :]))
        return Choice(int(best if ids is None else ids[best]), top - rest)

    def rank(self, row: Row, path: Sequence[TokenId] = (), count: int = 1) -> Ranking:
        """The `count` best tokens by the same scores, ties to the lowest id, and how sure the first is.

        A row whose entries are all equal is no opinion, and so is one that is not of numbers.
        """
        if not float(row[row.argmin()]) < _most(row) < math.inf:
            return Ranking((), 0)
        ids, scores = self._scores(row, path)
        left, weights = self._scratch_for(scores)
        np.copyto(left, scores)
        best_first = _best(left, max(count, 2))  # how sure the first is depends on the second
        if not best_first:
            return Ranking((), 0)
        tokens = best_first[:count] if ids is None else ids[best_first[:count]].tolist()
        if self.sampling.greedy:
            sureness = _concentration(scores, best_first[0], left, weights)
        elif len(best_first) > 1:
            sureness = 1.0 - math.exp(float(scores[best_first[1]]) - float(scores[best_first[0]]))
        else:
            sureness = 1.0
        return Ranking(tuple(tokens), round(CONFIDENCE_MAX * min(1.0, max(0.0, sureness))))

    def _scratch_for(self, scores: Row) -> tuple[Row, Row]:
        """Two arrays like `scores`, to be written over. Their precision is the model's: twice as many bytes take twice
        as long, and how sure a drafter is need not be known to more digits than its logits."""
        if self._scratch is None or self._scratch[0].dtype != scores.dtype:
            left, weights = np.empty((2, self._vocab_size), dtype=scores.dtype)
            self._scratch = left, weights
        left, weights = self._scratch
        return left[: scores.size], weights[: scores.size]

    def _scores(self, row: Row, path: Sequence[TokenId]) -> tuple[NDArray[np.int64] | None, Row]:
        """Scores whose argmax is the token, and the ids they belong to (None: all of them, in order).

        Good until the next call, and not to be changed.
        """
        sampling = self.sampling
        if sampling.greedy and sampling.plain:
            return None, row[: self._vocab_size]
        z = self._processed(row, path)
        if sampling.greedy:
            return None, z
        w = np.divide(z, sampling.temperature, out=z)
        noise = self.noise.row(self._length + len(path))
        if sampling.top_k == 0 and sampling.top_p == 1.0:
            return None, np.add(w, noise, out=w)
        ids = kept_by_law(w, sampling.top_k, sampling.top_p)
        return ids, w[ids] + noise[ids]

    def _processed(self, row: Row, path: Sequence[TokenId]) -> Scores:
        # One buffer for all: fresh pages for so large an array cost more than the arithmetic on it.
        z, sampling = self._buffer, self.sampling
        z[:] = row[: self._vocab_size]
        if sampling.plain:
            return z
        if sampling.repetition_penalty != 1.0:
            seen, _ = self._seen.extended(path)
            values = z[seen]
            z[seen] = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            ids, times = self._answered.extended(path)
            z[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if self._bias_ids.size:
            np.add.at(z, self._bias_ids, self._bias)
        if self._answer_len + len(path) < sampling.min_tokens:
            z[self._stop_tokens] = -math.inf
        return z


class _Tally:
    """How often each id has occurred, as arrays that grow by what is new. Ids outside the vocabulary do not count."""

    def __init__(self, vocab_size: int, tokens: Sequence[TokenId] = ()) -> None:
        self._vocab_size = vocab_size
        self._index: dict[TokenId, int] = {}
        self._ids = np.zeros(0, dtype=np.int64)
        self._times = np.zeros(0, dtype=np.float64)
        self.add(tokens)

    def add(self, tokens: Sequence[TokenId]) -> None:
        self._ids, self._times = self.extended(tokens)
        for token in self._ids[len(self._index) :]:
            self._index[int(token)] = len(self._index)

    def extended(self, tokens: Sequence[TokenId]) -> tuple[NDArray[np.int64], Scores]:
        """(ids, times) with `tokens` counted too; nothing is remembered."""
        if not tokens:
            return self._ids, self._times
        times = self._times.copy()
        new: Counter[TokenId] = Counter()
        for token in tokens:
            index = self._index.get(token)
            if index is not None:
                times[index] += 1.0
            elif token < self._vocab_size:
                new[token] += 1
        ids = np.concatenate([self._ids, np.array(list(new), dtype=np.int64)])
        return ids, np.concatenate([times, np.array(list(new.values()), dtype=np.float64)])


def kept_by_law(w: Scores, top_k: int, top_p: float) -> NDArray[np.int64]:
    """Ids that top-k, then top-p leave, ascending. Both order by (-w, id); at least one id is left.

    Args:
        w: log-weights over the vocabulary, shape (V,).
        top_k: 0 is off.
        top_p: the smallest leading set whose share of the mass *left by top-k* reaches this.
    """
    top = float(w.max())
    if not math.isfinite(top):
        return np.array([w.argmax()], dtype=np.int64)
    size = min(top_k or w.size, w.size)
    if top_p == 1.0:
        return _first(w, size, float(_largest(w, size).min()))
    if size < w.size:
        law, mass = _cumulated(_largest(w, size), top)
        total = float(np.exp(law - top).sum())
    else:
        weights = w - top
        total = float(np.exp(weights, out=weights).sum())
        # All that lies further below the top than this has less mass than top-p leaves out: never a need to sort it.
        enough = 1.0 + math.log(w.size / (1.0 - top_p))
        for reach in (min(_NEARLY_ALWAYS_ENOUGH, enough), enough):
            law, mass = _cumulated(w[w >= top - reach], top)
            if mass[-1] >= top_p * total:
                break
    count = min(int(np.searchsorted(mass, top_p * total, side="left")) + 1, law.size)
    return _first(w, count, float(law[count - 1]))


def _most(row: Row) -> float:
    """The largest value; NaN where there is one, minus infinity where there is none. `argmax` is faster than `max`."""
    return float(row[row.argmax()]) if row.size else -math.inf


def _cumulated(w: Scores, top: float) -> tuple[Scores, Scores]:
    """The values from the largest down, and the mass up to and with each, in units of exp(top)."""
    law = np.sort(w)[::-1]
    return law, np.cumsum(np.exp(law - top))


def _largest(w: Scores, count: int) -> Scores:
    """The `count` largest values, in no order."""
    return np.partition(w, w.size - count)[w.size - count :] if count < w.size else w


def _first(w: Scores, count: int, least: float) -> NDArray[np.int64]:
    """The `count` first ids in the order (-w, id), ascending; `least` is the value of the last of them."""
    ids = np.flatnonzero(w >= least)
    if ids.size > count:
        tied = np.flatnonzero(w[ids] == least)
        ids = np.delete(ids, tied[count - ids.size :])
    return ids


def _best(left: Row, count: int) -> list[int]:
    """The `count` first indices in the order (-score, index), fewer where the rest is minus infinity.

    Args:
        left: the scores; those found are minus infinity afterwards.
    """
    best: list[int] = []
    for _ in range(min(count, left.size)):
        index = int(left.argmax())
        if left[index] == -math.inf:
            break
        left[index] = -math.inf
        best.append(index)
    return best


def _concentration(scores: Row, best: int, below: Row, weights: Row) -> float:
    """exp(-entropy) of the law that `scores` are the logits of: 1 where one token has all of it.

    Args:
        below, weights: written over.
    """
    np.subtract(scores, scores[best], out=below)
    np.maximum(below, -1000.0, out=below)  # exp is 0 there; 0 times infinity is not
    np.exp(below, out=weights)
    total = float(np.add.reduce(weights))
    np.multiply(below, weights, out=below)
    return math.exp(float(np.add.reduce(below)) / total) / total


def logprobs(row: Row, vocab_size: int, token: TokenId, top: int) -> tuple[float, list[tuple[TokenId, float]]]:
    """Log-probability of `token` and of the `top` likeliest ids under the model's own law, nothing processed."""
    z = row[:vocab_size].astype(np.float64)
    most = float(z.max())
    total = most + math.log(float(np.exp(z - most).sum()))
    return float(z[token]) - total, [(t, float(z[t]) - total) for t in _best(z.copy(), top)]
