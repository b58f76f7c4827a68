"""The reference experiment: remote drafting at every distance, beside both baselines, and with one thing changed.

The policies differ in how dear a draft pass at the target is held to be; "shipped" is the one that nobody has to
choose. Saved passes are never told without the latency they were saved at. Which of them are played: `racing`.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanspec_p2p.simulation.laws import REFERENCE_RANKS
from wanspec_p2p.simulation.plays import Played
from wanspec_p2p.simulation.reference import PASSES, Figures, Setting, chain_alone, summed, tree_alone
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

__all__ = [
    "ABLATION_RTT_MS",
    "NO_LOCAL",
    "NO_RELIANCE",
    "PRICES",
    "RTT_MS",
    "SHIPPED",
    "Plan",
    "Variant",
    "ablations",
    "compared",
    "dearer",
    "priced",
]

RTT_MS = (0.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0)
ABLATION_RTT_MS = (10.0, 50.0)
NO_LOCAL = "no local drafter"
SHIPPED = "shipped"
NO_RELIANCE = "no reliance"
PRICES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)
"""Above the default's."""


def priced(price: float) -> str:
    """The name of the policy that holds a pass so much dearer than its time."""
    return f"price {price:g}"


POLICIES: Mapping[str, Callable[[LocalDrafting], LocalDrafting] | None] = {
    NO_LOCAL: None,
    SHIPPED: lambda own: own,
    NO_RELIANCE: lambda own: replace(own, reliance=0.0),
    **{priced(price): functools.partial(replace, price=price) for price in PRICES},
}
"""What each makes of the target's own drafting; None: there is none."""


def dearer(names: Collection[str]) -> list[str]:
    """Of policies, those that hold a pass dearer than the default does, the dearest last."""
    return [name for name in POLICIES if name in names and name not in (NO_LOCAL, SHIPPED, NO_RELIANCE)]


@dataclass(frozen=True, slots=True)
class Variant:
    """The reference with one thing changed.

    Args:
        drafters: how many it is played with; None: as many as the plan says.
        policies: names in POLICIES.
    """

    base: Setting = Setting()
    drafters: tuple[int, ...] | None = None
    policies: tuple[str, ...] = tuple(POLICIES)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played of a variant."""

    variant: Variant
    rtt_ms: tuple[float, ...]
    drafters: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return self.drafters if self.variant.drafters is None else self.variant.drafters

    @property
    def trees(self) -> dict[int, Setting]:
        return {passes: tree_alone(passes, self._alone) for passes in PASSES}

    @property
    def chains(self) -> dict[int, Setting]:
        return {passes: chain_alone(passes, self._alone) for passes in PASSES}

    @property
    def cells(self) -> list[dict[str, Setting]]:
        """By policy, for each number of drafters at each distance."""
        return [self.cell(drafters, rtt) for drafters in self.counts for rtt in self.rtt_ms]

    def cell(self, drafters: int, rtt_ms: float) -> dict[str, Setting]:
        """By policy."""
        base = replace(self.variant.base, drafters=drafters, wan=replace(self.variant.base.wan, rtt=rtt_ms / 1000.0))
        return {name: _changed(base, POLICIES[name]) for name in self.variant.policies}

    @property
    def _alone(self) -> Setting:
        """What no change to nodes and links touches."""
        return replace(self.variant.base, spares=0, hedge=True, lanes=True, rests=True, chain=False)


def ablations(base: Setting) -> dict[str, Variant]:
    """By what is changed. With a law of a recording, mechanisms and links alone: they are what it is to judge."""

    def local(drafting: LocalDrafting) -> Policy:
        return replace(base.policy, local=drafting)

    stalls = Wan(loss=0.01, recovery=0.4)
    return {
        "as it is": Variant(base),
        "one drafter": Variant(base, (1,)),
        "gate off: five local passes a round": Variant(
            replace(base, policy=local(LocalDrafting(passes=5))), policies=(NO_LOCAL, SHIPPED)
        ),
        "the gate does not rely on nodes": Variant(replace(base, policy=local(LocalDrafting(reliance=0.0)))),
        "lanes off": Variant(replace(base, lanes=False)),
        "verdicts say nothing of what others drafted": Variant(replace(base, policy=replace(base.policy, outlook=0))),
        "drafters do not rest for verdicts": Variant(replace(base, rests=False)),
        "chain only": Variant(replace(base, chain=True, policy=local(LocalDrafting(rows=1, candidates=1)))),
        **(_other_laws(base) if base.law == "iid" else {}),
        "jitter 20 %": Variant(replace(base, wan=Wan(jitter=0.2))),
        "1 % stalls of 400 ms": Variant(replace(base, wan=stalls)),
        "1 % stalls of 400 ms, a spare node": Variant(replace(base, wan=stalls, spares=1)),
        "1 % stalls of 400 ms, a spare node, hedging off": Variant(replace(base, wan=stalls, spares=1, hedge=False)),
    }


def _other_laws(base: Setting) -> dict[str, Variant]:
    return {
        **{
            f"first rank right at {alpha:.1f}": Variant(replace(base, ranks=_ranks(alpha))) for alpha in (0.6, 0.7, 0.9)
        },
        "calibrated SmolLM2": Variant(replace(base, law="calibrated")),
        "recorded SmolLM2": Variant(replace(base, law="recorded")),
    }


def compared(plan: Plan, results: Played) -> dict[str, Any]:
    """The figures of a plan: lists by distance for "r2", "r4", …, and the same under `chain_baseline`.

    Args:
        results: what was not played with as many seeds as the most were does not count.
    """
    seeds = max(map(len, results.values()))
    results = {setting: figures for setting, figures in results.items() if len(figures) == seeds}
    tree, chain = (_best(alone, results) for alone in (plan.trees, plan.chains))
    cells = {f"r{r}": [_whole(plan.cell(r, rtt), results) for rtt in plan.rtt_ms] for r in plan.counts}
    return {
        "rtt_ms": list(plan.rtt_ms),
        **{name: _against(results[plan.trees[tree]], own) for name, own in cells.items()},
        "chain_baseline": {name: _against(results[plan.chains[chain]], own) for name, own in cells.items()},
        "baselines": {
            "tree": {"passes": tree, **_absolute(results[plan.trees[tree]])},
            "chain": {"passes": chain, **_absolute(results[plan.chains[chain]])},
        },
        "measured": {
            name: {
                policy: [_absolute(cell[policy]) if policy in cell else None for cell in own]
                for policy in plan.variant.policies
                if any(policy in cell for cell in own)
            }
            for name, own in cells.items()
        },
    }


def _changed(base: Setting, change: Callable[[LocalDrafting], LocalDrafting] | None) -> Setting:
    if change is None:
        return replace(base, local=False)
    return replace(base, policy=replace(base.policy, local=change(base.policy.local)))


def _ranks(alpha: float) -> tuple[float, ...]:
    """The reference's, with the first rank's chance `alpha` and the others in proportion."""
    first, *others = REFERENCE_RANKS
    return (alpha, *(share * (1.0 - alpha) / (1.0 - first) for share in others))


def _best(alone: Mapping[int, Setting], results: Played) -> int:
    return min((n for n in alone if alone[n] in results), key=lambda passes: summed(results[alone[passes]]).per_token)


def _whole(cell: Mapping[str, Setting], results: Played) -> dict[str, Sequence[Figures]]:
    return {name: results[setting] for name, setting in cell.items() if setting in results}


def _absolute(by_seed: Sequence[Figures]) -> dict[str, float]:
    total = summed(by_seed)
    return {
        "ms_per_token": round(total.per_token * 1000.0, 3),
        "passes_per_token": round(total.local_per_token, 4),
        "node_passes_per_token": round(total.remote_per_token, 4),
    }


def _against(
    alone: Sequence[Figures], cells: Sequence[Mapping[str, Sequence[Figures]]]
) -> dict[str, list[float | None]]:
    """Ratios to a baseline, by distance."""
    base = summed(alone)
    found: dict[str, list[float | None]] = {}
    for cell in cells:
        totals = {name: summed(by_seed) for name, by_seed in cell.items()}
        ratios = {name: total.per_token / base.per_token for name, total in totals.items()}
        offloads = {name: 1.0 - total.local_per_token / base.local_per_token for name, total in totals.items()}
        for key, value in (
            ("no_local_latency_ratio", ratios[NO_LOCAL]),
            ("best_latency_ratio", min(ratios.values())),
            ("offload_at_equal_latency", max((offloads[n] for n in ratios if ratios[n] <= 1.0), default=0.0)),
            ("shipped_latency_ratio", ratios[SHIPPED]),
            ("shipped_latency_ratio_error", _error(cell[SHIPPED], alone)),
            ("shipped_offload", offloads[SHIPPED]),
            ("shipped_node_passes_per_token", totals[SHIPPED].remote_per_token),
        ):
            found.setdefault(key, []).append(None if value is None else round(value, 4))
    return found


def _error(own: Sequence[Figures], alone: Sequence[Figures]) -> float | None:
    """Standard error of the latency ratio over seeds; one seed tells nothing of it."""
    ratios = [a.per_token / b.per_token for a, b in zip(own, alone, strict=True)]
    return statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
