"""What the testbed measures, beside what the simulator says of the same: cells, and how they are compared.

A cell is one distance: round trip, drafters and jitter. All times may be stretched alike, so that what our own code and
a busy machine take weighs less; figures are told as if they had not been. In virtual time code takes none: so the
simulator is told how long it took in the testbed, for each verification, each draft pass of the target and each pass of
a node, and plays without it too. The target's two add up to what its passes leave of its time in these cells, so that
time per pass agrees by construction, in the mean; rounds and passes a token are what the simulator predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from wanspec_p2p.simulation.plays import Played
from wanspec_p2p.simulation.reference import PASSES, Figures, Setting, summed, tree_alone
from wanspec_p2p.simulation.wan import Wan

__all__ = ["Bed", "Cell", "Code", "Observed", "between_passes", "compared", "with_real_tree"]

LATENCY_WITHIN, OFFLOAD_WITHIN = 0.10, 0.10


@dataclass(frozen=True, slots=True)
class Cell:
    rtt_ms: float
    drafters: int
    jitter: float


@dataclass(frozen=True, slots=True)
class Code:
    """Real seconds that the code around the models takes: for each verification, for each draft pass of the target, and
    for each pass of a node."""

    verify: float = 0.0
    draft: float = 0.0
    node: float = 0.0

    def adding_up(self, figures: Figures, seconds: float) -> Code:
        """The target's in proportion as they are, and in sum what these passes left of its time."""
        found = self.verify * figures.rounds + self.draft * figures.local_passes
        share = max(0.0, seconds) / found if found else 0.0
        return Code(share * self.verify, share * self.draft, self.node)


@dataclass(frozen=True, slots=True)
class Bed:
    """What all cells have in common.

    Args:
        base: models and lengths; its distance is nobody's.
        slow: by what all times are stretched, but for those of code.
    """

    cells: tuple[Cell, ...]
    base: Setting
    slow: float

    def with_code(self, observed: Sequence[Observed]) -> Bed:
        """The same in a simulator where code takes what it took in the testbed, in the mean over the cells."""
        verify, draft, node = (fmean(getattr(seen.code, of) for seen in observed) for of in ("verify", "draft", "node"))
        return replace(self, base=replace(self.base, verify_code=verify, draft_code=draft, node_code=node))

    def setting(self, cell: Cell) -> Setting:
        wan = Wan(rtt=cell.rtt_ms / 1000.0 * self.slow, jitter=cell.jitter)
        return replace(self.stretched, wan=wan, drafters=cell.drafters)

    @property
    def trees(self) -> dict[int, Setting]:
        """The target alone, by passes a round."""
        return {passes: tree_alone(passes, self.stretched) for passes in PASSES}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What the simulator has to play."""
        return tuple(dict.fromkeys((*self.trees.values(), *map(self.setting, self.cells))))

    @property
    def stretched(self) -> Setting:
        return replace(self.base, verify=self.base.verify * self.slow, draft=self.base.draft * self.slow)


@dataclass(frozen=True, slots=True)
class Observed:
    """One cell in the testbed.

    Attributes:
        seconds: of the answers as the submitter saw them; `figures` has the target's.
        late: mean seconds by which passes ended after their time, of "target", "local" and "node".
        code: what lay between passes, being late included.
        cores: processor seconds a second, by process; "machine" is everybody's, in shares of all its cores.
    """

    figures: Figures
    seconds: float
    late: dict[str, float]
    code: Code
    cores: dict[str, float]


def between_passes(setting: Setting, figures: Figures) -> float:
    """Seconds that the target's time has beside its passes: waiting, and our own code."""
    return figures.seconds - setting.verify * figures.rounds - setting.draft * figures.local_passes


def compared(bed: Bed, observed: Sequence[Observed], played: Played) -> dict[str, Any]:
    """The report: the baseline, and each cell as the testbed and as the simulator found it, with code and without.

    Args:
        played: what `bed` plays, and `bed.with_code(observed)`.
    """
    coded = bed.with_code(observed)
    trees = {passes: summed(played[setting]) for passes, setting in coded.trees.items()}
    best = min(trees, key=lambda passes: trees[passes].per_token)
    tree = trees[best]
    cells = [
        _compared(bed, cell, seen, summed(played[coded.setting(cell)]), summed(played[bed.setting(cell)]), tree)
        for cell, seen in zip(bed.cells, observed, strict=True)
    ]
    return {
        "code_ms_per_pass": _code(Code(coded.base.verify_code, coded.base.draft_code, coded.base.node_code)),
        "baseline": {"passes": best, **_absolute(bed, tree)},
        "cells": cells,
        "within": sum(cell["within"] for cell in cells),
    }


def with_real_tree(report: dict[str, Any], bed: Bed, seen: Observed) -> dict[str, Any]:
    """The report, its baseline played with real processes as well."""
    return {**report, "baseline": {**report["baseline"], "testbed": _absolute(bed, seen.figures)}}


def _compared(
    bed: Bed, cell: Cell, seen: Observed, simulated: Figures, without_code: Figures, tree: Figures
) -> dict[str, Any]:
    ways = {"testbed": seen.figures, "simulator": simulated, "simulator_without_code": without_code}
    found = {
        name: {**_absolute(bed, figures), "offload": round(_offload(figures, tree), 4)}
        for name, figures in ways.items()
    }
    ratio = seen.figures.per_token / simulated.per_token
    difference = _offload(seen.figures, tree) - _offload(simulated, tree)
    return {
        "rtt_ms": cell.rtt_ms,
        "drafters": cell.drafters,
        "jitter": cell.jitter,
        **found,
        "latency_ratio": round(ratio, 4),
        "offload_difference": round(difference, 4),
        "within": abs(ratio - 1.0) <= LATENCY_WITHIN and abs(difference) <= OFFLOAD_WITHIN,
        "submitter_ms_per_token": round(seen.seconds / seen.figures.tokens * 1000.0 / bed.slow, 3),
        "late_ms_per_pass": {name: round(late * 1000.0, 3) for name, late in seen.late.items()},
        "code_ms_per_pass": _code(seen.code),
        "cores": {name: round(cores, 3) for name, cores in seen.cores.items()},
    }


def _code(code: Code) -> dict[str, float]:
    return {of: round(getattr(code, of) * 1000.0, 3) for of in ("verify", "draft", "node")}


def _absolute(bed: Bed, figures: Figures) -> dict[str, float]:
    between = between_passes(bed.stretched, figures)
    return {
        "ms_per_token": round(figures.per_token * 1000.0 / bed.slow, 3),
        "passes_per_token": round(figures.local_per_token, 4),
        "rounds_per_token": round(figures.rounds / figures.tokens, 4),
        "between_passes_ms_per_token": round(between / bed.slow * 1000.0 / figures.tokens, 3),
        "remote_passes_per_token": round(figures.remote_passes / figures.tokens, 4),
    }


def _offload(figures: Figures, tree: Figures) -> float:
    return 1.0 - figures.local_per_token / tree.local_per_token
