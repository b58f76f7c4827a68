"""Which rows a pass has: of all sessions that wait, those worth their time, whoever they belong to.

A row that one session adds delays all that are in the pass, and where a pass is flat up to a bend no row has a price
of its own: the 65th is dear because of the 64 before it. So sessions say what rows would bring them (`Wish`), and the
rows of all are taken best first, as long as one brings more tokens than all sessions make in the time it adds. Passes
of the target's own drafter are weighed in the same way, by what the verification after them is worth with it and
without it (docs/decisions/0024-rows-are-allotted-to-all-sessions-at-once.md).

Pure functions. Costs are convex (`PassCost`) and chances are taken best first, so that the first row that does not pay
is followed by none that does.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wanspec_p2p.speculation.passcost import PassCost

__all__ = ["Place", "Wish", "draft_places", "verification_rows"]

NOISE = 1e-9
"""Tokens: a gain of less is the arithmetic's."""


class Place(NamedTuple):
    """Where the target's own drafter could go on.

    Attributes:
        nodes: of the draft tree, to be run, and its root if that is not in the drafter's cache.
        chances: of each candidate that would come of it, that the answer passes through it.
    """

    nodes: tuple[int, ...]
    chances: tuple[float, ...]

    @property
    def rows(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session could do with a pass.

    Args:
        candidates: chances of those it could verify, best first.
        most: so many it could verify if it had them.
        places: where its own drafter could go on, best first.
        dearer: than its time a pass of that drafter is held to be, by so much.
        held: all places are to be run, whatever they bring.
        progress: tokens it has made of a pass lately, at least 1.
    """

    candidates: Sequence[float] = ()
    most: int = 0
    places: Sequence[Place] = ()
    dearer: float = 0.0
    held: bool = False
    progress: float = 1.0


def verification_rows(wishes: Sequence[Wish], cost: PassCost, pace: float, most: int) -> list[int]:
    """How many of its candidates each session is to verify.

    As many rows as pay by the chances alone. Who has them, where there are more candidates than that, goes by chance
    over progress, so that no session stays behind for long (proportional fairness: Kelly, Maulloo and Tan, J. Oper.
    Res. Soc. 49, 1998).

    Args:
        cost: of a verification.
        pace: tokens a second that all sessions make.
        most: candidates there is room for.
    """
    verification = _Verification(len(wishes), most, cost, pace)
    paying = verification.paying(sorted((chance for wish in wishes for chance in wish.candidates), reverse=True))
    least = verification.row(paying - 1)
    ranked = sorted(
        (-chance / wish.progress, i) for i, wish in enumerate(wishes) for chance in wish.candidates if chance >= least
    )
    counts = Counter(i for _, i in ranked[:paying])
    return [counts[i] for i in range(len(wishes))]


def draft_places(
    wishes: Sequence[Wish], verification: PassCost, draft: PassCost, pace: float, most: int, *, retry: bool = False
) -> list[int]:
    """At how many of its places each session is to draft before the next verification; all 0: no such pass pays.

    Args:
        verification, draft: what passes cost.
        pace: tokens a second that all sessions make.
        most: rows there is room for.
        retry: a pass is to be run to see what it takes by now, if it brings anything at all.
    """
    if any(wish.held for wish in wishes):
        return [len(wish.places) if wish.held else 0 for wish in wishes]
    following = _Verification(len(wishes), sum(wish.most for wish in wishes), verification, pace)
    have = sorted((chance for wish in wishes for chance in wish.candidates), reverse=True)
    offers = _offers(wishes, following.price(have))
    rows = list(itertools.accumulate(offer.place.rows for offer in offers))
    del rows[bisect_right(rows, most) :]
    dearer = statistics.fmean(1.0 + wish.dearer for wish in wishes) if wishes else 1.0
    free = draft.seconds(1) if retry else 0.0
    costs = [pace * dearer * max(0.0, draft.seconds(width) - free) for width in rows]
    gains = list(itertools.accumulate(offer.worth for offer in offers[: len(rows)]))
    count = 1 + max(range(len(rows)), key=lambda k: gains[k] - costs[k], default=-1)
    # Each was weighed as if it came alone. Together they are worth less, so that fewer may pay where all do not.
    before = following.net(have)
    while count:
        drafted = [chance for offer in offers[:count] for chance in offer.place.chances]
        if following.net(sorted([*have, *drafted], reverse=True)) - before > max(costs[count - 1], NOISE):
            break
        count //= 2
    counts = Counter(offer.session for offer in offers[:count])
    return [counts[i] for i in range(len(wishes))]


class _Verification(NamedTuple):
    """One that is to come. Chances are those of all candidates there are, best first.

    Attributes:
        width: its rows without any candidate.
        room: candidates it can have.
        pace: tokens a second that all sessions make.
    """

    width: int
    room: int
    cost: PassCost
    pace: float

    def row(self, taken: int) -> float:
        """What a row more costs, in tokens, where so many candidates are in."""
        return self.pace * self.cost.per_row(self.width + taken)

    def paying(self, chances: Sequence[float]) -> int:
        """How many are worth their rows: candidates are ever less likely, and rows ever dearer."""
        every = range(min(len(chances), self.room))
        return bisect_left(every, True, key=lambda k: chances[k] < self.row(k))

    def price(self, chances: Sequence[float]) -> float:
        """What a candidate more must be better than: the row that it needs, or the candidate whose row it takes."""
        taken = self.paying(chances)
        row = self.row(taken) if taken < self.room else math.inf
        return min(row, chances[taken - 1]) if taken else row

    def net(self, chances: Sequence[float]) -> float:
        """Tokens that it makes beside those that all sessions make in its time otherwise."""
        taken = self.paying(chances)
        return sum(chances[:taken]) - self.pace * self.cost.seconds(self.width + taken)


class _Offer(NamedTuple):
    """A place of a session, and the tokens it would add if no other did."""

    worth: float
    session: int
    place: Place


def _offers(wishes: Sequence[Wish], price: float) -> list[_Offer]:
    """All places, best first; those of one session in the order it named them."""
    offers: list[_Offer] = []
    for i, wish in enumerate(wishes):
        least = math.inf
        for place in wish.places:
            least = min(least, sum(chance - price for chance in place.chances if chance > price))
            offers.append(_Offer(least, i, place))
    return sorted(offers, key=lambda offer: -offer.worth)
