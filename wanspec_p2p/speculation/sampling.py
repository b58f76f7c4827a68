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

from wanspec_p2p.speculation.noise import Noise
from wanspec_p2p.types import Sampling, TokenId

__all__ = ["CONFIDENCE_MAX", "Choice", "Ranking", "Sampler", "kept_by_law", "logprobs"]

CONFIDENCE_MAX = 127
_NUCLEUS_GUESS = 1024

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
        self._prompt = frozenset(t for t in prompt if t < vocab_size)
        self._prompt_len = len(prompt)
        self._answer: list[TokenId] = []
        self._stop_tokens = [t for t in stop_tokens if t < vocab_size]
        bias = [(t, b) for t, b in sampling.logit_bias if t < vocab_size]
        self._bias_ids = np.array([t for t, _ in bias], dtype=np.int64)
        self._bias = np.array([b for _, b in bias], dtype=np.float64)

    def commit(self, tokens: Iterable[TokenId]) -> None:
        self._answer.extend(tokens)
        self.noise.settle(self._prompt_len + len(self._answer))

    def choose(self, row: Row, path: Sequence[TokenId] = ()) -> Choice:
        """The token after prompt + answer + path, from the logits there (shape (>= vocab_size,))."""
        ids, scores = self._scores(row, path)
        best = int(np.argmax(scores))  # ties: the lowest index, hence the lowest id
        top = float(scores[best])
        rest = np.delete(scores, best)
        margin = top - float(rest.max()) if rest.size else math.inf
        return Choice(int(best if ids is None else ids[best]), margin)

    def rank(self, row: Row, path: Sequence[TokenId] = (), count: int = 1) -> Ranking:
        """The `count` best tokens by the same scores, ties to the lowest id, and how sure the first is.

        A row whose entries are all equal is no opinion.
        """
        if float(row.max()) == float(row.min()):
            return Ranking((), 0)
        ids, scores = self._scores(row, path)
        few = min(count + 1, scores.size)
        # Everything that ties with the last of the few competes for its place.
        least = np.partition(scores, scores.size - few)[scores.size - few]
        top = np.flatnonzero(scores >= least)
        top = top[np.argsort(-scores[top], kind="stable")]
        top = top[scores[top] > -math.inf]
        tokens = top[:count] if ids is None else ids[top[:count]]
        return Ranking(tuple(int(t) for t in tokens), self._confidence(scores, top))

    def _scores(self, row: Row, path: Sequence[TokenId]) -> tuple[NDArray[np.int64] | None, Scores]:
        """Scores whose argmax is the token, and the ids they belong to (None: all of them, in order)."""
        z = self._processed(row, path)
        if self.sampling.greedy:
            return None, z
        w = z / self.sampling.temperature
        noise = self.noise.row(self._prompt_len + len(self._answer) + len(path))
        if self.sampling.top_k == 0 and self.sampling.top_p == 1.0:
            return None, w + noise
        ids = kept_by_law(w, self.sampling.top_k, self.sampling.top_p)
        return ids, w[ids] + noise[ids]

    def _processed(self, row: Row, path: Sequence[TokenId]) -> Scores:
        z = row[: self._vocab_size].astype(np.float64)
        sampling = self.sampling
        if sampling.plain:
            return z
        answer = [*self._answer, *path]
        if sampling.repetition_penalty != 1.0:
            seen = np.array(sorted(self._prompt.union(answer)), dtype=np.int64)
            values = z[seen]
            z[seen] = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        if (sampling.presence_penalty or sampling.frequency_penalty) and answer:
            counts = Counter(answer)
            ids = np.array(list(counts), dtype=np.int64)
            times = np.array(list(counts.values()), dtype=np.float64)
            z[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if self._bias_ids.size:
            np.add.at(z, self._bias_ids, self._bias)
        if len(answer) < sampling.min_tokens:
            z[self._stop_tokens] = -math.inf
        return z

    def _confidence(self, scores: Scores, best_first: NDArray[np.int64]) -> int:
        """exp(-entropy) of the law at temperature 0; 1 - exp(-gap of the two best scores) above it."""
        if self.sampling.greedy:
            weights = np.exp(scores - scores[best_first[0]])
            total = float(weights.sum())
            law = weights[weights > 0] / total
            sureness = math.exp(float((law * np.log(law)).sum()))
        elif best_first.size > 1:
            sureness = 1.0 - math.exp(float(scores[best_first[1]] - scores[best_first[0]]))
        else:
            sureness = 1.0
        return round(CONFIDENCE_MAX * min(1.0, max(0.0, sureness)))


def kept_by_law(w: Scores, top_k: int, top_p: float) -> NDArray[np.int64]:
    """Ids that top-k, then top-p leave, ascending. Both order by (-w, id); at least one id is left.

    Args:
        w: log-weights over the vocabulary, shape (V,); -inf is never kept unless all are.
        top_k: 0 is off.
        top_p: the smallest leading set whose share of the mass *left by top-k* reaches this.
    """
    size = w.size if top_k == 0 else min(top_k, w.size)
    if top_p == 1.0:
        ids = _leading(w, size)
        return np.sort(ids)
    # A nucleus is nearly always small: sort a leading few, and everything only where they do not reach the mass.
    ids = _leading(w, min(size, _NUCLEUS_GUESS))
    top = float(w[ids[0]])
    if size == w.size:
        total = float(np.exp(w - top).sum())
    elif size == ids.size:
        total = float(np.exp(w[ids] - top).sum())
    else:
        total = float(np.exp(w[_leading(w, size)] - top).sum())
    mass = np.cumsum(np.exp(w[ids] - top))
    if mass[-1] < top_p * total and ids.size < size:
        ids = _leading(w, size)
        mass = np.cumsum(np.exp(w[ids] - top))
    count = int(np.searchsorted(mass, top_p * total, side="left")) + 1
    return np.sort(ids[:count])


def _leading(w: Scores, count: int) -> NDArray[np.int64]:
    """The `count` first ids in the order (-w, id), in that order."""
    if count < w.size:
        least = np.partition(w, w.size - count)[w.size - count]
        ids = np.flatnonzero(w >= least)
    else:
        ids = np.arange(w.size)
    order = np.argsort(-w[ids], kind="stable")
    return np.asarray(ids[order[:count]], dtype=np.int64)


def logprobs(row: Row, vocab_size: int, token: TokenId, top: int) -> tuple[float, list[tuple[TokenId, float]]]:
    """Log-probability of `token` and of the `top` likeliest ids under the model's own law, nothing processed."""
    z = row[:vocab_size].astype(np.float64)
    z -= z.max()
    z -= math.log(float(np.exp(z).sum()))
    best = _leading(z, top) if top else np.zeros(0, dtype=np.int64)
    return float(z[token]), [(int(t), float(z[t])) for t in best]
