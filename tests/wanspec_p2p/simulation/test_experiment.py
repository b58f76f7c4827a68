from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wanspec_p2p.simulation.experiment import (
    NO_LOCAL,
    NO_RELIANCE,
    POLICIES,
    PRICES,
    SHIPPED,
    Plan,
    Variant,
    ablations,
    compared,
    dearer,
)
from wanspec_p2p.simulation.reference import PASSES, Figures, Setting
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

BASE = Setting(tokens=8, warm_up=0)
PLAN = Plan(Variant(BASE), (0.0, 30.0), (2, 4))


def settings(plan: Plan) -> list[Setting]:
    """All that may be played."""
    remote = (setting for cell in plan.cells for setting in cell.values())
    return [*plan.trees.values(), *plan.chains.values(), *remote]


def scripted(figures: Callable[[Setting], Figures], plan: Plan = PLAN, seeds: int = 1) -> dict[str, Any]:
    return compared(plan, {setting: [figures(setting)] * seeds for setting in settings(plan)})


def by_distance(setting: Setting) -> Figures:
    """Per token, the tree takes 10 ms and a pass, the chain 20 ms and two; others 8 ms and 100 times the way."""
    if setting.drafters == 0:
        slow = 2 if setting.policy.local.rows == 1 else 1
        off = abs((setting.policy.local.passes or 0) - 6)  # six passes are best
        return Figures(tokens=100, seconds=slow + off, local_passes=100 * slow)
    passes = 0 if not setting.local else 80 if setting.policy.local.price == 1.0 else 40
    seconds = 0.8 + 10 * setting.wan.rtt - passes / 1000
    return Figures(tokens=100, seconds=seconds, local_passes=passes, remote_passes=300)


def test_a_plan_holds_every_policy_at_every_distance_beside_both_baselines() -> None:
    assert len(PLAN.trees) == len(PLAN.chains) == len(PASSES)
    assert len(PLAN.cells) == 2 * 2 and {len(cell) for cell in PLAN.cells} == {len(POLICIES)}
    cell = PLAN.cell(4, 30.0)
    assert cell in PLAN.cells
    assert {setting.drafters for setting in cell.values()} == {4}
    assert {setting.wan.rtt for setting in cell.values()} == {0.03}
    assert not cell[NO_LOCAL].local
    assert {n: (s.policy.local.price, s.policy.local.reliance) for n, s in cell.items() if s.local} == {
        SHIPPED: (LocalDrafting().price, LocalDrafting().reliance),
        NO_RELIANCE: (LocalDrafting().price, 0.0),
        **{f"price {price:g}": (price, LocalDrafting().reliance) for price in PRICES},
    }


def test_prices_are_a_ladder_from_the_default_up() -> None:
    assert list(PRICES) == sorted(PRICES) and PRICES[0] > LocalDrafting().price
    cell = PLAN.cell(2, 0.0)
    assert [cell[name].policy.local.price for name in dearer(cell)] == list(PRICES)
    assert dearer([SHIPPED, NO_LOCAL, "price 1", "price 0.5"]) == ["price 0.5", "price 1"]


def test_what_is_shipped_is_the_policy_nobody_chose() -> None:
    shipped = PLAN.cell(2, 0.0)[SHIPPED]
    assert shipped.policy == Policy() and shipped.local


def passes(target: float, nodes: float) -> dict[str, float]:
    return {"passes_per_token": target, "node_passes_per_token": nodes}


def test_ratios_are_to_the_best_of_each_baseline() -> None:
    found = scripted(by_distance)
    assert found["rtt_ms"] == [0.0, 30.0]
    assert found["baselines"]["tree"] == {"passes": 6, "ms_per_token": 10.0, **passes(1.0, 0.0)}
    assert found["baselines"]["chain"] == {"passes": 6, "ms_per_token": 20.0, **passes(2.0, 0.0)}
    assert (
        found["r2"]
        == found["r4"]
        == {
            "no_local_latency_ratio": [0.8, 1.1],
            "best_latency_ratio": [0.72, 1.02],
            "offload_at_equal_latency": [1.0, 0.0],  # nothing is as fast as the tree at 30 ms
            "shipped_latency_ratio": [0.76, 1.06],
            "shipped_latency_ratio_error": [None, None],
            "shipped_offload": [0.6, 0.6],
            "shipped_node_passes_per_token": [3.0, 3.0],
        }
    )
    assert found["chain_baseline"]["r2"] == {
        "no_local_latency_ratio": [0.4, 0.55],
        "best_latency_ratio": [0.36, 0.51],
        "offload_at_equal_latency": [1.0, 1.0],
        "shipped_latency_ratio": [0.38, 0.53],
        "shipped_latency_ratio_error": [None, None],
        "shipped_offload": [0.8, 0.8],
        "shipped_node_passes_per_token": [3.0, 3.0],
    }
    assert found["measured"]["r4"][NO_LOCAL][1] == {"ms_per_token": 11.0, **passes(0.0, 3.0)}


def test_the_error_of_a_ratio_is_over_seeds() -> None:
    assert scripted(by_distance, seeds=3)["r2"]["shipped_latency_ratio_error"] == [0.0, 0.0]
    results = {setting: [by_distance(setting)] * 2 for setting in settings(PLAN)}
    shipped = PLAN.cell(2, 0.0)[SHIPPED]
    results[shipped] = [replace(results[shipped][0], seconds=seconds) for seconds in (0.7, 0.9)]
    found = compared(PLAN, results)["r2"]
    assert found["shipped_latency_ratio"][0] == 0.8
    assert found["shipped_latency_ratio_error"][0] == pytest.approx(0.1)  # of two that are 0.2 apart


def test_passes_saved_count_only_at_the_latency_of_the_baseline() -> None:
    def spared_but_late(setting: Setting) -> Figures:
        found = by_distance(setting)
        return found if setting.drafters == 0 or setting.local else replace(found, seconds=1.001)

    assert scripted(spared_but_late)["r2"]["offload_at_equal_latency"][0] == 0.6  # not 1


def test_what_was_played_with_fewer_seeds_than_others_does_not_count() -> None:
    results = {setting: [by_distance(setting)] * 3 for setting in settings(PLAN)}
    fast = replace(by_distance(PLAN.trees[6]), seconds=0.1)
    results[PLAN.trees[2]] = results[PLAN.cell(2, 0.0)["price 0.7"]] = [fast] * 2
    found = compared(PLAN, results)
    assert found["baselines"]["tree"]["passes"] == 6
    assert found["r2"] == scripted(by_distance)["r2"] | {"shipped_latency_ratio_error": [0.0, 0.0]}
    assert found["measured"]["r2"]["price 0.7"][0] is None
    assert found["measured"]["r2"]["price 0.7"][1] is not None


def test_ablations_change_one_thing_each() -> None:
    found = ablations(BASE)
    assert found["as it is"].base == BASE
    assert found["one drafter"].drafters == (1,) and found["one drafter"].base == BASE
    assert sum(variant.base == BASE for variant in found.values()) == 2
    assert found["first rank right at 0.6"].base.ranks == pytest.approx((0.6, 0.26, 0.08, 0.03, 0.03))
    jitter = Plan(found["jitter 20 %"], (10.0,), (2,)).cell(2, 10.0)[SHIPPED]
    assert jitter.wan == Wan(rtt=0.01, jitter=0.2)


def test_baselines_know_nothing_of_links_and_nodes() -> None:
    alone = [
        set(Plan(ablations(BASE)[name], (0.0,), (2,)).trees.values())
        for name in (
            "lanes off",
            "verdicts say nothing of what others drafted",
            "drafters do not rest for verdicts",
            "chain only",
            "jitter 20 %",
        )
    ]
    assert alone == [set(PLAN.trees.values())] * 5
    other = Plan(ablations(BASE)["recorded SmolLM2"], (0.0,), (2,))
    assert {setting.law for setting in other.trees.values()} == {"recorded"}
