"""What drafters without a fault would reach at the reference setting: a calculation, to hold the shipped code against.

None of the shipped code runs here. All drafters of an answer are one with the rows of all, so they share their work
without a loss; they draft best first by the true chances of every candidate; the target's own drafter has all it needs
in its cache; messages take half a round trip and nothing else takes any time. What is kept is what nobody can do away
with: passes take their time and have their rows, a verdict is heeded by the next pass, and an answer begins with
nothing drafted. The text and the drafter's luck with it are those of the shipped plays of the same seed. It says how
far from there the shipped code is; it is no proven bound, since best first is the best order for one round alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import count, islice

from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.reference import PROMPT, Figures, Setting, law_of
from wanspec_p2p.speculation.policy import NEGLIGIBLE

__all__ = ["play_ideal"]


MOMENT = 1e-9
"""Seconds: sums of the same times in another order differ by less."""


class _Place:
    """What may follow the answer so far."""

    __slots__ = ("drafted", "following", "run")

    def __init__(self) -> None:
        self.following: dict[int, _Place] = {}  # by rank
        self.run = False  # by the remote drafter
        self.drafted = math.inf  # when the target has its candidates

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
            self.remote.run_until(self.now)

    def _gain(self, chosen: Sequence[tuple[_Place, float]]) -> float:
        """Tokens that a verification makes more, if these places are drafted."""
        before = sum(chance for _, chance in self._likeliest())
        arriving = [place.drafted for place, _ in chosen]
        for place, _ in chosen:
            place.drafted = self.now
        gain = sum(chance for _, chance in self._likeliest()) - before
        for (place, _), at in zip(chosen, arriving, strict=True):
            place.drafted = at
        return gain

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
        """Places that are not drafted, below those that are."""
        places = [(self.root, 1.0), *self._likeliest()]
        return [(place, chance) for place, chance in places if place.drafted > self.now + MOMENT]

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
        self._frontier: list[tuple[float, int, _Place]] = []
        self._order = count()

    def tell(self, root: _Place, at: float) -> None:
        """The target has committed up to here."""
        self._verdicts.append((at + self._way, root))

    def run_until(self, now: float) -> None:
        """All passes that have ended by then."""
        if not self._rows:
            return
        while self._free + self._setting.draft <= now + MOMENT:
            self._heed()
            self._free += self._setting.draft
            self.passes += 1
            for chance, place in [self._best() for _ in range(min(self._rows, len(self._frontier)))]:
                place.run = True
                place.drafted = min(place.drafted, self._free + self._way)
                self._follow(place, chance)

    def _heed(self) -> None:
        """The last verdict that has come moves the root."""
        root = None
        while self._verdicts and self._verdicts[0][0] <= self._free + MOMENT:
            _, root = self._verdicts.pop(0)
        if root is not None:
            self._frontier = []
            self._offer(root, 1.0)

    def _offer(self, place: _Place, chance: float) -> None:
        """It is to be run, or what follows it is: what the target had when the verdict left it is known here too."""
        if chance < NEGLIGIBLE:
            return
        if place.run or place.drafted <= self._free - self._way + MOMENT:
            self._follow(place, chance)
        else:
            heapq.heappush(self._frontier, (-chance, next(self._order), place))

    def _follow(self, place: _Place, chance: float) -> None:
        for rank, share in enumerate(self._setting.ranks):
            self._offer(place.at(rank), chance * share)

    def _best(self) -> tuple[float, _Place]:
        chance, _, place = heapq.heappop(self._frontier)
        return -chance, place
