"""How good a drafter is, from the rank it gave to each token its target chose. Pure arithmetic.

α is the share of positions where the drafter's first candidate is the target's token, given everything before it
(Leviathan et al., arXiv 2211.17192); accepted per round is what a chain of K drafts brings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

__all__ = [
    "LONGEST",
    "RANKS",
    "Answer",
    "Costs",
    "Figures",
    "Group",
    "accepted_per_round",
    "expected_speedup",
    "measure",
]

RANKS = 4
LONGEST = 7
"""Drafts in a chain: K."""
POSITIONS = ((0, 16), (16, 32), (32, 64), (64, 1 << 30))


class Answer(msgspec.Struct, frozen=True):
    """What the target said, in token ids, at `temperature` with the noise of `seed`."""

    category: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    temperature: float
    seed: bytes


class Group(msgspec.Struct, frozen=True):
    """Figures of some of the positions."""

    positions: int
    alpha: float
    ranks: tuple[float, ...]  # shares of rank 1..RANKS, then of all later ones


class Figures(msgspec.Struct, frozen=True):
    """Of one drafter at one temperature."""

    overall: Group
    accepted_per_round: tuple[float, ...]  # with chains of 1..LONGEST drafts
    by_category: dict[str, Group]
    by_position: dict[str, Group]  # in the answer
    by_depth: tuple[float, ...]  # share right of the k-th draft of a chain where all before it were


class Costs(msgspec.Struct, frozen=True):
    """Seconds of a pass, medians of passes taken in turn."""

    draft: float  # one token
    target: float  # one token
    verify: float  # LONGEST + 1 rows


def measure(answers: Sequence[Answer], ranks: Sequence[Sequence[int]]) -> Figures:
    """Figures over `answers`.

    Args:
        ranks: for each token of each answer, the drafter's rank of it from 1 on; 0 where it is not among the first
            RANKS.
    """
    by_category: dict[str, list[int]] = defaultdict(list)
    by_position: dict[str, list[int]] = defaultdict(list)
    for answer, own in zip(answers, ranks, strict=True):
        by_category[answer.category].extend(own)
        for first, end in POSITIONS:
            name = f"{first}–{end - 1}" if end < 1 << 30 else f"{first} on"
            by_position[name].extend(own[first:end])
    return Figures(
        overall=_group([rank for own in ranks for rank in own]),
        accepted_per_round=tuple(accepted_per_round(ranks, length) for length in range(1, LONGEST + 1)),
        by_category=_groups(by_category),
        by_position=_groups(by_position),
        by_depth=_by_depth(ranks),
    )


def _groups(found: Mapping[str, list[int]]) -> dict[str, Group]:
    return {name: _group(ranks) for name, ranks in found.items() if ranks}


def _group(ranks: Sequence[int]) -> Group:
    total = max(len(ranks), 1)
    shares = tuple(sum(rank == k for rank in ranks) / total for k in (*range(1, RANKS + 1), 0))
    return Group(len(ranks), shares[0], shares)


def accepted_per_round(ranks: Sequence[Sequence[int]], length: int) -> float:
    """Mean drafts accepted by a pass over a chain of `length`: each round settles those and one token more."""
    rounds = [accepted for own in ranks for _, accepted in _rounds(own, length)]
    return sum(rounds) / len(rounds) if rounds else 0.0


def _rounds(ranks: Sequence[int], length: int) -> list[tuple[int, int]]:
    """(first position, accepted) of every round of an answer. The last token needs no draft: a pass brings it."""
    found, at = [], 0
    while at < len(ranks):
        accepted = 0
        while accepted < length and at + accepted + 1 < len(ranks) and ranks[at + accepted] == 1:
            accepted += 1
        found.append((at, accepted))
        at += accepted + 1
    return found


def _by_depth(ranks: Sequence[Sequence[int]]) -> tuple[float, ...]:
    reached, right = [0] * LONGEST, [0] * LONGEST
    for own in ranks:
        for at, accepted in _rounds(own, LONGEST):
            for depth in range(min(accepted + 1, LONGEST, len(own) - 1 - at)):
                reached[depth] += 1
                right[depth] += depth < accepted
    return tuple(hits / tries if tries else 0.0 for hits, tries in zip(right, reached, strict=True))


def expected_speedup(figures: Figures, costs: Costs) -> tuple[float, int, float]:
    """Tokens per second against the target alone.

    Returns:
        With the drafter beside the target, each taking its turn, at the best chain length; that length; and with
        drafters elsewhere whose chains of LONGEST always arrive in time, which nothing can exceed.
    """
    # More rows never take less; a machine that is busy may have measured so.
    verify = max(costs.verify, costs.target)
    best, length = 1.0, 0
    for k, accepted in enumerate(figures.accepted_per_round, 1):
        own = costs.target + (verify - costs.target) * k / LONGEST
        speedup = (1 + accepted) * costs.target / (own + k * costs.draft)
        if speedup > best:
            best, length = speedup, k
    return best, length, (1 + figures.accepted_per_round[-1]) * costs.target / verify
