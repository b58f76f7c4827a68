"""Which plays of the reference experiment are worth their time: all seeds for what counts, a few for what might.

Baselines race: all are played a little, and the best of them to the end. How dear a pass may be held to be is looked
for by halving. What is compared was played with the same seeds, and what is told with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wanspec_p2p.simulation.experiment import NO_LOCAL, NO_RELIANCE, SHIPPED, Plan, dearer, priced
from wanspec_p2p.simulation.plays import Played
from wanspec_p2p.simulation.reference import Setting, summed

__all__ = ["FEW", "FINALISTS", "IDEAL_CHALLENGERS", "Rules", "wanted", "wanted_by_all"]

FEW = 6
"""Seeds that decide whether the others are worth playing."""
FINALISTS = 3
"""Of a baseline's lengths: neighbours differ by less than a few seeds can tell."""
IDEAL_CHALLENGERS = (priced(0.35), priced(0.5), priced(0.7))
"""For ideal drafters: they bring more, and the gate beside them relies on nobody in any case."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one race.

    Args:
        seeds: how many are all.
        shown: policies that are to be told in any case, beside the default and none at the target.
        challengers: policies that may be the fastest, too.
    """

    seeds: int
    shown: tuple[str, ...] = ()
    challengers: tuple[str, ...] = (NO_RELIANCE,)


def wanted(plan: Plan, rules: Rules, results: Played) -> dict[Setting, int]:
    """What to play next, each with how many seeds; empty when everything is known that `experiment.compared` tells."""
    seeds = rules.seeds
    race = _Race(results, min(FEW, seeds), seeds)
    for alone in (plan.trees, plan.chains):
        race.finalists(tuple(alone.values()))
    for cell in plan.cells:
        race.whole(cell[name] for name in (NO_LOCAL, SHIPPED, *rules.shown) if name in cell)
        for name in rules.challengers:
            if name in cell:
                race.challenger(cell[name], [cell[NO_LOCAL], cell[SHIPPED]])
    if race.missing:
        return race.missing
    for alone in (plan.trees, plan.chains):
        base = race.best(alone.values())
        for cell in plan.cells:
            if race.ratio(cell[NO_LOCAL], base, seeds) > 1.0 >= race.ratio(cell[SHIPPED], base, seeds):
                race.dearest([cell[SHIPPED], *(cell[name] for name in dearer(cell))], base)
    return race.missing


def wanted_by_all(plans: Sequence[Plan], rules: Rules, results: Played) -> dict[Setting, int]:
    """The same for several that share settings."""
    found: dict[Setting, int] = {}
    for plan in plans:
        for setting, most in wanted(plan, rules, results).items():
            found[setting] = max(most, found.get(setting, 0))
    return found


class _Race:
    """One look at the results so far, and what they leave open: `missing`."""

    def __init__(self, results: Played, few: int, seeds: int) -> None:
        self._results, self._few, self._seeds = results, few, seeds
        self.missing: dict[Setting, int] = {}

    def whole(self, settings: Iterable[Setting]) -> None:
        self._known(settings, self._seeds)

    def finalists(self, settings: Sequence[Setting]) -> None:
        """Of baselines that differ in their length."""
        if self._known(settings, self._few):
            self.whole(sorted(settings, key=lambda setting: self._seconds(setting, self._few))[:FINALISTS])

    def challenger(self, setting: Setting, others: Sequence[Setting]) -> None:
        """Matters where it may be the best; the others are played in any case."""
        if self._known((setting, *others), self._few):
            best = min(self._seconds(other, self._few) for other in others)
            if self._seconds(setting, self._few) < best:
                self.whole([setting])

    def dearest(self, rungs: Sequence[Setting], base: Setting) -> None:
        """The last of `rungs` that is no slower than `base`: the first is not, and each is slower than those before.

        With a few seeds they are held against the first, which meets the same texts and delays as they do, and whose
        ratio to `base` is known from all seeds.
        """
        low, high = 0, len(rungs)
        first = self.ratio(rungs[0], base, self._seeds)
        while high - low > 1:
            middle = (low + high) // 2
            if not self._known(rungs[middle : middle + 1], self._few):
                return
            if first * self.ratio(rungs[middle], rungs[0], self._few) <= 1.0:
                low = middle
            else:
                high = middle
        for rung in reversed(rungs[: low + 1]):
            if not self._known([rung], self._seeds) or self.ratio(rung, base, self._seeds) <= 1.0:
                return

    def best(self, settings: Iterable[Setting]) -> Setting:
        """Of those that were played to the end."""
        whole = (setting for setting in settings if self._played(setting) >= self._seeds)
        return min(whole, key=lambda setting: self._seconds(setting, self._seeds))

    def ratio(self, setting: Setting, base: Setting, seeds: int) -> float:
        return self._seconds(setting, seeds) / self._seconds(base, seeds)

    def _known(self, settings: Iterable[Setting], seeds: int) -> bool:
        """Whether all were played so often; those that were not are missing."""
        short = [setting for setting in settings if self._played(setting) < seeds]
        for setting in short:
            self.missing[setting] = max(seeds, self.missing.get(setting, 0))
        return not short

    def _played(self, setting: Setting) -> int:
        return len(self._results.get(setting, ()))

    def _seconds(self, setting: Setting, seeds: int) -> float:
        """A token."""
        return summed(self._results[setting][:seeds]).per_token
