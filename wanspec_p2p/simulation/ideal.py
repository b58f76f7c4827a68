"""What drafters without a fault would reach at the reference setting: a calculation, to hold the shipped code against.

None of the shipped code runs here. All drafters of an answer are one with the rows of all, so they share their work
without a loss; they draft best first by the true chances of every candidate, a place that comes too late for the
verification that would want it for half; the target knows which drafts are on their way when it weighs a pass of its
own, whose drafter has all it needs in its cache; messages take half a round trip and nothing else takes any time. What
is kept is what nobody can do away with: passes take their time and have their rows, a verdict is heeded by the next
pass, and an answer begins with nothing drafted. The text and the drafter's luck with it are those of the shipped plays
of the same seed. It says how far from there the shipped code is; it is the best that we know of, and no bound.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import count, islice

from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.reference import PROMPT, Figures, Setting, law_of

__all__ = ["play_ideal"]


MOMENT = 1e-9
"""Seconds: sums of the same times in another order differ by less."""
TOO_LATE = 0.5
"""What a draft is worth that comes after the verification that would want it: something may hang from it later."""
UNLIKELY = 1e-3


class _Place:
    """What may follow the answer so far."""

    __slots__ = ("drafted", "following", "sent")

    def __init__(self) -> None:
        self.following: dict[int, _Place] = {}  # by rank
        self.sent = math.inf  # when the remote drafter's candidates are with the target; infinite: it has not run it
        self.drafted = math.inf  # when somebody's are

    def at(self, rank: int) -> _Place:
        return self.following.setdefault(rank, _Place())


def play_ideal(setting: Setting, seed: int) -> Figures:
    """One answer by ideal drafters, from its first verdict on: until then there is nothing to draft from.

    Of the setting count its drafters, round trip, ranks, tokens, pass times and rows, and how dear local passes are
    held to be; that nodes are relied on (`LocalDrafting.reliance`) does not.

    Raises:
        ValueError: the law is not "iid", or links are not all alike: there is no ideal for those.
    """
    if setting.law != "iid" or setting.wan.jitter or setting.wan.loss:
        raise ValueError("an ideal is known for independent positions and even links only")
    return _Answer(setting, seed).play()


class _Answer:
    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.now = 0.0
        self.made = 0
        self.rounds = self.passes = 0
        self.root = _Place()
        self.remote = _Remote(setting, self.root)
        text = Text(seed)
        self._law, self._at = law_of(setting, text), text.after(PROMPT)
        self._ranks = list(enumerate(setting.ranks[: setting.policy.local.candidates]))  # that are verified

    def play(self) -> Figures:
        setting = self.setting
        while self.made < setting.tokens:
            self._draft()
            verified = {id(place) for place, _ in self._likeliest()}
            self.now += setting.verify
            self.remote.run_until(self.now)
            place, tokens = self.root, 0
            while self.made + tokens < setting.tokens:
                place, tokens = place.at(self._rank()), tokens + 1
                if id(place) not in verified:
                    break
            self.made, self.rounds, self.root = self.made + tokens, self.rounds + 1, place
            self.remote.tell(place, self.now)
        return Figures(self.made, self.now, self.rounds, self.passes, self.remote.passes)

    def _draft(self) -> None:
        """Passes at the target, as many as were asked for or as pay."""
        setting, drafting = self.setting, self.setting.policy.local
        if not setting.local:
            return
        passes = 0
        while drafting.passes is None or passes < drafting.passes:
            chosen = heapq.nlargest(drafting.rows, self._open(), key=lambda found: found[1])
            if drafting.passes is None:
                rate = self.made / self.now if self.made else 1.0 / setting.verify
                if self._gain(chosen) <= rate * setting.draft * (1.0 + drafting.price):
                    return
            self.now, self.passes, passes = self.now + setting.draft, self.passes + 1, passes + 1
            for place, _ in chosen:
                place.drafted = min(place.drafted, self.now)

    def _gain(self, chosen: Sequence[tuple[_Place, float]]) -> float:
        """Tokens that a verification makes more if it waits for a pass over these, and for what comes meanwhile."""
        before, begun = self._expected(), self.now
        after = self.now = begun + self.setting.draft
        drafted = [place.drafted for place, _ in chosen]
        for place, _ in chosen:
            place.drafted = min(place.drafted, after)
        gain = self._expected() - before
        self.now = begun
        for (place, _), at in zip(chosen, drafted, strict=True):
            place.drafted = at
        return gain

    def _expected(self) -> float:
        return sum(chance for _, chance in self._likeliest())

    def _likeliest(self) -> list[tuple[_Place, float]]:
        """The candidates of a verification that begins now."""
        return list(islice(self._walk(), self.setting.width - 1))

    def _walk(self) -> Iterator[tuple[_Place, float]]:
        """Drafted candidates, likeliest first."""
        order = count()
        heap = [(-1.0, next(order), self.root)]
        while heap:
            chance, _, place = heapq.heappop(heap)
            if place is not self.root:
                yield place, -chance
            if place.drafted <= self.now + MOMENT:
                for rank, share in self._ranks:
                    heapq.heappush(heap, (chance * share, next(order), place.at(rank)))

    def _open(self) -> list[tuple[_Place, float]]:
        """Places below drafted ones that will not be drafted when a pass that begins now has ended."""
        ends = self.now + self.setting.draft
        self.remote.run_until(ends)
        places = [(self.root, 1.0), *self._likeliest()]
        return [(place, chance) for place, chance in places if place.drafted > ends + MOMENT]

    def _rank(self) -> int:
        """Of the answer's next token; one beyond all ranks if it is no candidate."""
        at, candidates = self._at, self._law.guess(self._at).tokens
        self._at = self._law.text.step(at, at.truth)
        return candidates.index(at.truth) if at.truth in candidates else len(self.setting.ranks)


class _Remote:
    """All nodes as one: passes one after the other, from its first root on."""

    def __init__(self, setting: Setting, root: _Place) -> None:
        self.passes = 0
        self._setting, self._way = setting, setting.wan.rtt / 2.0
        self._rows = setting.rows * setting.drafters
        self._free = self._way
        self._verdicts = [(self._way, root)]  # to come
        self._root, self._said, self._heard = root, 0.0, 0  # of the last that came, when it was sent, and its number

    def tell(self, root: _Place, at: float) -> None:
        """The target has committed up to here."""
        self._verdicts.append((at + self._way, root))

    def run_until(self, now: float) -> None:
        """All passes that have ended by then."""
        if not self._rows:
            return
        while self._free + self._setting.draft <= now + MOMENT:
            self._heed()
            arrives = self._free + self._setting.draft + self._way
            order = count()
            worth = ((worth, -next(order), place) for worth, place in self._open(arrives))
            chosen = [place for _, _, place in heapq.nlargest(self._rows, worth)]
            self._free += self._setting.draft
            self.passes += 1
            for place in chosen:
                place.sent = arrives
                place.drafted = min(place.drafted, arrives)

    def _heed(self) -> None:
        """The last verdict that has come moves the root."""
        while self._verdicts and self._verdicts[0][0] <= self._free + MOMENT:
            at, self._root = self._verdicts.pop(0)
            self._said, self._heard = at - self._way, self._heard + 1

    def _open(self, arrives: float) -> Iterator[tuple[float, _Place]]:
        """What it could run, with its worth: the chance that the answer passes through it, less where it comes late.

        What the target had when its last word left is known here too. Verifications begin one usual round after
        another; what follows a place that comes too late for one is wanted by the next at the soonest.
        """
        usual = self._said / (self._heard - 1) if self._heard > 1 else self._setting.verify
        known = self._free - self._way + MOMENT
        stack = [(self._root, 1.0, self._said)]
        while stack:
            place, chance, wanted = stack.pop()
            there = min(place.sent, place.drafted if place.drafted <= known else math.inf)
            if there == math.inf:
                yield chance if arrives <= wanted + MOMENT else chance * TOO_LATE, place
                continue
            if there > wanted + MOMENT:
                wanted += usual
            for rank, share in enumerate(self._setting.ranks):
                if chance * share >= UNLIKELY:
                    stack.append((place.at(rank), chance * share, wanted))
