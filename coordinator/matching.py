"""Who should draft for whom: a pure function from a want and the nodes there are to a ranked choice.

A node that may not is left out for a reason in words; those that may are ordered by how many accepted tokens a
second they can be expected to bring, each choice making its own owner and site less attractive for the next, so that
one institution's outage never takes all drafters of a session.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wanspec_p2p.protocol.node_to_coordinator import DrafterModel
from wanspec_p2p.protocol.target_to_coordinator import ServedModel
from wanspec_p2p.types import PeerId, Privacy

__all__ = ["Candidate", "Match", "Want", "fitting_model", "misfit", "rank", "refusal"]

PRIOR_ACCEPTED, PRIOR_VERIFIED = 6.0, 10.0
"""Acceptance assumed of a node without receipts: 0.6, worth ten observed tokens."""
USUAL_SPEED = 20.0
"""Tokens per second assumed of a node that reports none."""
ROUND_SECONDS = 0.1
"""A round trip of this length halves what a node is expected to bring: about one pass of a large target."""
USUAL_RTT = 0.05
SAME_OWNER, SAME_SITE = 0.25, 0.5


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
    available: bool  # neither silent nor draining
    rtt: float | None = None  # to the target where receipts tell, else to the coordinator
    verified: int = 0
    accepted: int = 0


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


def refusal(want: Want, candidate: Candidate) -> str | None:
    """Why this node may not draft, in words; None where it may."""
    if want.privacy is Privacy.PRIVATE:
        return "the prompt is private"
    if candidate.pool != want.pool:
        return "it is in another pool"
    if want.privacy is Privacy.TRUSTED and not want.trusted:
        return f"pool {want.pool} is not marked trusted"
    if not candidate.available:
        return "it is silent or draining"
    if candidate.peer in want.exclude:
        return "the target has it or does not want it"
    if fitting_model(candidate.models, want.model) is None:
        return misfit(candidate.models, [want.model])
    if candidate.free <= 0:
        return "all its slots are leased"
    return None


def rank(want: Want, candidates: Sequence[Candidate], rng: random.Random) -> tuple[list[Match], str]:
    """Everyone who may draft, best first, and, where that is nobody, why.

    Equal candidates come in an order drawn from `rng`, so that load spreads.
    """
    left: list[tuple[float, float, Candidate, DrafterModel]] = []
    refusals: Counter[str] = Counter()
    for candidate in candidates:
        reason = refusal(want, candidate)
        model = fitting_model(candidate.models, want.model)
        if reason is not None or model is None:
            refusals[reason or "no model fits"] += 1
        else:
            left.append((_expected(candidate, model), rng.random(), candidate, model))
    if not left:
        return [], _in_words(refusals)
    owners, sites = {owner for owner, _ in want.company}, {site for _, site in want.company}
    ranked: list[Match] = []
    while left:
        best = max(left, key=lambda entry: (entry[0] * _novelty(entry[2], owners, sites), entry[1]))
        left.remove(best)
        candidate, model = best[2], best[3]
        ranked.append(Match(candidate.peer, model, candidate.owner, candidate.site))
        owners.add(candidate.owner)
        sites.add(candidate.site)
    return ranked, ""


def _expected(candidate: Candidate, model: DrafterModel) -> float:
    """Accepted tokens per second, give or take: acceptance × speed × share of it that is free ÷ (1 + RTT in rounds)."""
    acceptance = (candidate.accepted + PRIOR_ACCEPTED) / (candidate.verified + PRIOR_VERIFIED)
    speed = model.tokens_per_second or USUAL_SPEED
    rtt = USUAL_RTT if candidate.rtt is None else candidate.rtt
    return acceptance * speed * (candidate.free / candidate.slots) / (1.0 + rtt / ROUND_SECONDS)


def _novelty(candidate: Candidate, owners: set[str], sites: set[str]) -> float:
    return (SAME_OWNER if candidate.owner in owners else 1.0) * (SAME_SITE if candidate.site in sites else 1.0)


def _in_words(refusals: Counter[str]) -> str:
    if not refusals:
        return "no node is registered"
    total = sum(refusals.values())
    reason, count = refusals.most_common(1)[0]
    return f"none of {total} registered nodes suits; {count} of them: {reason}"
