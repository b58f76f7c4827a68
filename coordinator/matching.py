"""Who should draft for whom: a pure function from a want and the nodes there are to a ranked choice.

A node that may not is left out for a reason in words; those that may are ordered by how many accepted tokens they can
be expected to bring by the deadline, each choice making its own owner and site less attractive for the next, so that
one institution's outage never takes all drafters of a session.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.acceptance import Positions
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel
from wanspec_p2p.protocol.target_to_coordinator import ServedModel
from wanspec_p2p.types import PeerId, Privacy

__all__ = ["Candidate", "Match", "Want", "barred", "fitting_model", "misfit", "rank", "refusal"]

USUAL_ACCEPTANCE = 0.6
"""Of a pair of models nobody has seen together."""
PRIOR_POSITIONS = 10.0
"""What other nodes have shown of a pair of models is worth as much as so many positions of a node's own."""
USUAL_SPEED = 20.0
"""Tokens per second assumed of a node that reports none."""
SLOWEST, FASTEST = 0.01, 10_000.0
"""Tokens per second a node is believed; it is the node that says so."""
DEADLINE_SECONDS = 0.1
"""After how long, in the mean, a draft is of no use any more: about one pass of a large target."""
USUAL_RTT = 0.05
MOST_DOUBT = 1.0
"""More doubt about a round trip than that counts no further; relative to it."""
MOST_FRUITLESS = 6
"""Targets that are heard; more say nothing new."""
SAME_OWNER, SAME_SITE = 0.25, 0.5
_FULL = "all its slots are leased"


@dataclass(frozen=True, slots=True)
class Want:
    pool: str
    model: ServedModel
    privacy: Privacy
    trusted: bool  # the pool is one the operator marked trusted
    exclude: frozenset[PeerId]
    company: tuple[tuple[str, str], ...] = ()  # (owner, site) of the drafters the target already has


@dataclass(frozen=True, slots=True)
class Candidate:
    peer: PeerId
    pool: str
    owner: str
    site: str
    models: tuple[DrafterModel, ...]  # the operator's preference first
    slots: int
    free: int
    available: bool  # neither silent, nor draining, nor left alone for an offer that it did not answer
    rtt: float | None = None  # to the target, in seconds, measured or predicted
    doubt: float = 0.0  # how far off that may be, relative to it; 0 where it was measured
    jitter: float | None = None  # of its link to the coordinator, in seconds
    positions: Positions = Positions()  # its own, as receipts report them
    usual: float | None = None  # acceptance of these models at other nodes; None where nothing is known
    fruitless: int = 0  # targets for which nothing of it came in time, lately


@dataclass(frozen=True, slots=True)
class Match:
    node: PeerId
    model: DrafterModel
    owner: str
    site: str


def fitting_model(models: Iterable[DrafterModel], served: ServedModel) -> DrafterModel | None:
    """The first model whose token ids mean what the target's mean."""
    for model in models:
        if model.tokenizer == served.tokenizer and model.vocab_size == served.vocab_size:
            return model
    return None


def misfit(models: Sequence[DrafterModel], targets: Sequence[ServedModel]) -> str | None:
    """Why none of `models` can draft for any of `targets`, naming both fingerprints.

    None where one can, or where there is no target to compare with.
    """
    if not targets or any(fitting_model(models, served) for served in targets):
        return None
    mine, theirs = models[0], targets[0]
    if mine.tokenizer == theirs.tokenizer:
        return f"vocabulary mismatch: the node's has {mine.vocab_size} entries, the target's {theirs.vocab_size}"
    return f"tokenizer mismatch: the node's is {mine.tokenizer}, the target's is {theirs.tokenizer}"


def barred(want: Want) -> str | None:
    """Why no node whatever may draft, in words; None where one may."""
    if want.privacy is Privacy.PRIVATE:
        return "the prompt is private"
    if want.privacy is Privacy.TRUSTED and not want.trusted:
        return f"pool {want.pool} is not marked trusted"
    return None


def refusal(want: Want, candidate: Candidate) -> str | None:
    """Why this node may not draft, in words; None where it may."""
    if (reason := barred(want)) is not None:
        return reason
    if candidate.pool != want.pool:
        return "it is in another pool"
    if not candidate.available:
        return "it is silent, left an offer unanswered lately, or is draining"
    if candidate.peer in want.exclude:
        return "the target has it or does not want it"
    if fitting_model(candidate.models, want.model) is None:
        return misfit(candidate.models, [want.model])
    if candidate.free <= 0:
        return _FULL
    return None


def rank(want: Want, candidates: Sequence[Candidate], rng: random.Random, *, full: int = 0) -> tuple[list[Match], str]:
    """Everyone who may draft, best first, and, where that is nobody, why.

    Equal candidates come in an order drawn from `rng`, so that load spreads.

    Args:
        full: how many more nodes there are, without a free slot and therefore not among the candidates.
    """
    left: list[_Fit] = []
    refusals = Counter({_FULL: full} if full else {})
    for candidate in candidates:
        reason = refusal(want, candidate)
        model = fitting_model(candidate.models, want.model)
        if reason is not None or model is None:
            refusals[reason or "no model fits"] += 1
        else:
            left.append(_Fit(_expected(candidate, model), rng.random(), candidate, model))
    return ([], _in_words(want.pool, refusals)) if not left else (list(_best_first(left, want.company)), "")


class _Fit(NamedTuple):
    expected: float  # accepted tokens
    draw: float  # decides between equals
    candidate: Candidate
    model: DrafterModel


def _best_first(left: Sequence[_Fit], company: Iterable[tuple[str, str]]) -> Iterator[Match]:
    """A choice only ever makes those that are left less attractive. So whoever heads the heap with a value that still
    holds is the best of all, and nobody goes back into it more than three times: a thousand nodes take milliseconds.
    """
    owners, sites = {owner for owner, _ in company}, {site for _, site in company}
    heap = [(-fit.expected * _novelty(fit.candidate, owners, sites), -fit.draw, n) for n, fit in enumerate(left)]
    heapq.heapify(heap)
    while heap:
        value, draw, number = heap[0]
        candidate = left[number].candidate
        now = -left[number].expected * _novelty(candidate, owners, sites)
        if now != value:
            heapq.heapreplace(heap, (now, draw, number))
            continue
        heapq.heappop(heap)
        owners.add(candidate.owner)
        sites.add(candidate.site)
        yield Match(candidate.peer, left[number].model, candidate.owner, candidate.site)


def _expected(candidate: Candidate, model: DrafterModel) -> float:
    """Accepted tokens of one draft by its deadline.

    Token k arrives after the round trip and k steps of the drafter, k/s; it counts if the k first are right, α^k. When
    the target will want it is not known here, so the deadline is memoryless: e^(-t/D) is the chance that time t is not
    too late. The sum over k of α^k · e^(-(RTT + k/s)/D) is a geometric series. A doubtful round trip is taken for
    longer than it is said to be, as is a jittery one; a node that is half taken drafts half as fast. Each target
    for which a node drafted nothing of use lately halves what is expected of it.
    """
    own, usual = candidate.positions, USUAL_ACCEPTANCE if candidate.usual is None else candidate.usual
    acceptance = (own.right + PRIOR_POSITIONS * usual) / (own.reached + PRIOR_POSITIONS)
    speed = min(max(model.tokens_per_second or USUAL_SPEED, SLOWEST), FASTEST) * candidate.free / candidate.slots
    rtt = USUAL_RTT if candidate.rtt is None else candidate.rtt
    late = rtt * (1.0 + min(candidate.doubt, MOST_DOUBT)) + (candidate.jitter or 0.0)
    ratio = acceptance * math.exp(-1.0 / (speed * DEADLINE_SECONDS))
    of_use = 0.5**candidate.fruitless
    return of_use * math.exp(-late / DEADLINE_SECONDS) * ratio / (1.0 - ratio)


def _novelty(candidate: Candidate, owners: set[str], sites: set[str]) -> float:
    return (SAME_OWNER if candidate.owner in owners else 1.0) * (SAME_SITE if candidate.site in sites else 1.0)


def _in_words(pool: str, refusals: Counter[str]) -> str:
    if not refusals:
        return f"no node is registered in pool {pool}"
    total = sum(refusals.values())
    reason, count = refusals.most_common(1)[0]
    return f"none of {total} registered nodes suits; {count} of them: {reason}"
