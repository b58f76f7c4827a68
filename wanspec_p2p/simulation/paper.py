"""A WANSpec-style reconstruction: the setting of arXiv 2602.18931, as near as its text allows.

One worker drafts a chain and runs ahead; the target drafts a chain of its own where the gate says that the worker's is
not to be trusted; both have the same draft model. The paper compares with speculative decoding at the target: a chain
of its best length. It assumes that tokens match independently of each other (`iid`), which leaves its entropy gate
nothing to see; so the same is played with the confidences of a recorded pair (`calibrated`). Its thresholds, models'
times and regions are not known to us: ours are the reference setting's, and our gate needs no threshold. A gate spares
passes even without any worker, against a chain whose length is fixed; that share is told beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanspec_p2p.simulation.experiment import NO_LOCAL, NO_RELIANCE, SHIPPED, Plan, Variant, priced
from wanspec_p2p.simulation.plays import Played
from wanspec_p2p.simulation.reference import Figures, LawName, Setting, chain_alone, summed
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

__all__ = ["CAPTION", "FEW_PERCENT", "PUBLISHED", "RTT_MS", "Published", "plans", "report", "settings"]

CAPTION = "WANSpec-style reconstruction"
RTT_MS = (0.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0)
LAWS: tuple[LawName, ...] = ("iid", "calibrated")
REFERENCE = Setting()
LENGTHS = tuple(range(1, 9))
"""Of the co-located chain, the best of which counts."""
POLICIES = (NO_LOCAL, SHIPPED, NO_RELIANCE, priced(0.5), priced(0.7), priced(1.0))
FEW_PERCENT = 1.05
"""What we take "a few percent more latency" to be."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is told of the paper's results: shares of draft passes spared, within a range of round trips in ms."""

    offload: tuple[float, float]
    rtt_ms: tuple[float, float] | None  # None: not stated
    said: str


PUBLISHED = (
    Published((0.5, 1.0), (0.0, 30.0), "over 50 % fewer draft passes, latency comparable up to 20-30 ms"),
    Published((0.2, 0.3), None, "across regions 20-30 % fewer, a few percent slower (round trips not stated)"),
)
STALLS_FROM_MS = 70.0


def plans(rtt_ms: Sequence[float], base: Setting = REFERENCE) -> dict[str, Plan]:
    """By law. `base` says how long answers are."""
    gate = Policy(width=64, local=LocalDrafting(rows=1, candidates=1))
    worker = replace(base, chain=True, policy=gate)
    return {law: Plan(Variant(replace(worker, law=law), policies=POLICIES), tuple(rtt_ms), (1,)) for law in LAWS}


def settings(chosen: Mapping[str, Plan]) -> list[Setting]:
    """All that is to be played, each once."""
    found: dict[Setting, None] = {}
    for plan in chosen.values():
        for cell in (*_cells(plan), _no_worker(plan)):
            found |= dict.fromkeys(cell.values())
        found |= dict.fromkeys(_chains(plan).values())
    return list(found)


def report(chosen: Mapping[str, Plan], results: Played) -> dict[str, Any]:
    """By law: the co-located chain, lists by round trip against it, and the same without a worker."""
    found: dict[str, Any] = {}
    for law, plan in chosen.items():
        chains = {length: summed(results[setting]) for length, setting in _chains(plan).items()}
        length = min(chains, key=lambda length: chains[length].per_token)
        chain = chains[length]
        by_rtt = [_against(chain, cell, results) for cell in _cells(plan)]
        found[law] = {
            "chain": {
                "passes": length,
                "ms_per_token": round(chain.per_token * 1e3, 3),
                "passes_per_token": round(chain.local_per_token, 4),
            },
            **{key: [own[key] for own in by_rtt] for key in by_rtt[0]},
            "no_worker": _against(chain, _no_worker(plan), results),
        }
    return {
        "caption": CAPTION,
        "rtt_ms": list(next(iter(chosen.values())).rtt_ms),
        "laws": found,
        "published": [{"offload": p.offload, "rtt_ms": p.rtt_ms, "said": p.said} for p in PUBLISHED],
        "stalls_from_ms": STALLS_FROM_MS,
    }


def _chains(plan: Plan) -> dict[int, Setting]:
    return {length: chain_alone(length, replace(plan.variant.base, chain=False)) for length in LENGTHS}


def _cells(plan: Plan) -> list[dict[str, Setting]]:
    """At each distance, by policy."""
    return [plan.cell(1, rtt) for rtt in plan.rtt_ms]


def _no_worker(plan: Plan) -> dict[str, Setting]:
    """The target with its gate alone, by policy."""
    return plan.cell(0, 0.0)


def _against(chain: Figures, cell: Mapping[str, Setting], results: Played) -> dict[str, float]:
    """Latency ratios and offloads against the chain.

    `offload_at_equal_latency` is the most that a policy spares at a ratio of up to 1, and 0 where none is as fast;
    `offload_few_percent_slower` the same at up to `FEW_PERCENT`, `few_percent_latency_ratio` the ratio it has there.
    """
    totals = {name: summed(results[setting]) for name, setting in cell.items()}
    ratios = {name: own.per_token / chain.per_token for name, own in totals.items()}
    spared = {name: 1.0 - own.local_per_token / chain.local_per_token for name, own in totals.items()}

    def most(ratio: float) -> tuple[float, float]:
        """(offload, latency ratio)"""
        return max(((spared[n], ratios[n]) for n in ratios if ratios[n] <= ratio), default=(0.0, min(ratios.values())))

    found = {
        "no_local_latency_ratio": ratios[NO_LOCAL],
        "best_latency_ratio": min(ratios.values()),
        "shipped_latency_ratio": ratios[SHIPPED],
        "shipped_offload": spared[SHIPPED],
        "offload_at_equal_latency": most(1.0)[0],
        "offload_few_percent_slower": most(FEW_PERCENT)[0],
        "few_percent_latency_ratio": most(FEW_PERCENT)[1],
    }
    return {key: round(value, 4) for key, value in found.items()}
