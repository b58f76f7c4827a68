from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from wanspec_p2p.simulation.experiment import NO_LOCAL, NO_RELIANCE, SHIPPED, Plan, Variant, compared
from wanspec_p2p.simulation.racing import FEW, FINALISTS, IDEAL_CHALLENGERS, Rules, wanted, wanted_by_all
from wanspec_p2p.simulation.reference import Figures, Setting
from wanspec_p2p.simulation.wan import Wan

PLAN = Plan(Variant(Setting(tokens=8, warm_up=0)), (0.0, 50.0), (2,))
SEEDS = 20
NEAR, FAR = PLAN.cells
Law = Callable[[Setting, int], Figures]


def law(setting: Setting, seed: int) -> Figures:
    """A token takes the tree 10 ms at its best (6 passes) and the chain 15 (4), both up to 9 % more by luck.

    With nodes near 7 ms, nobody's draft needed. With nodes far off 9.5 ms by default, 1 ms more for each unit of price
    above that, and 12 with none at the target. A gate that does not rely on nodes is a little faster near, slower far.
    """
    luck = 1.0 + 0.01 * (seed * 7 % 10)
    passes = 100
    if setting.drafters == 0:
        chain = setting.policy.local.rows == 1
        off = abs((setting.policy.local.passes or 0) - (4 if chain else 6))
        seconds = (15.0 if chain else 10.0) + off
    elif setting.wan.rtt == 0.0:
        passes = 0 if not setting.local else 20
        seconds = 7.0 - (0.1 if setting.policy.local.reliance == 0.0 else 0.0)
    elif not setting.local:
        seconds, passes = 12.0, 0
    else:
        price = setting.policy.local.price
        seconds, passes = 9.5 + (price - 0.25), round(100 - 30 * price)
        seconds += 0.1 if setting.policy.local.reliance == 0.0 else 0.0
    return Figures(tokens=100, seconds=seconds * luck / 10.0, local_passes=passes)


def raced(law: Law, plan: Plan = PLAN, seeds: int = SEEDS) -> dict[Setting, list[Figures]]:
    """Plays until nothing more is wanted."""
    results: dict[Setting, list[Figures]] = {}
    while asked := wanted(plan, Rules(seeds), results):
        for setting, most in asked.items():
            assert len(results.get(setting, ())) < most <= seeds, "nothing is asked for twice"
            results[setting] = [law(setting, seed) for seed in range(most)]
    return results


def counts(results: dict[Setting, list[Figures]], cell: dict[str, Setting]) -> dict[str, int]:
    return {name: len(results[setting]) for name, setting in cell.items() if setting in results}


def test_baselines_race_and_the_best_are_played_to_the_end() -> None:
    results = raced(law)
    whole = [passes for passes, setting in PLAN.trees.items() if len(results[setting]) == SEEDS]
    assert len(whole) == FINALISTS and 6 in whole
    assert {len(results[setting]) for setting in PLAN.trees.values()} == {FEW, SEEDS}
    found = compared(PLAN, results)["baselines"]
    assert (found["tree"]["passes"], found["chain"]["passes"]) == (6, 4)


def test_no_price_is_looked_for_where_nodes_alone_are_no_slower() -> None:
    assert counts(raced(law), NEAR) == {NO_LOCAL: SEEDS, SHIPPED: SEEDS, NO_RELIANCE: SEEDS}


def test_the_dearest_price_at_equal_latency_is_found_by_halving() -> None:
    results = raced(law)
    found = counts(results, FAR)
    assert found[NO_RELIANCE] == FEW, "it is behind"
    # 9.5 + (0.7 - 0.25) is up to the tree's 10 ms; the next one, 0.8, is not.
    assert (found["price 0.7"], found["price 0.8"]) == (SEEDS, FEW)
    offload = compared(PLAN, results)["r2"]["offload_at_equal_latency"]
    assert offload == [1.0, 0.21]
    # Against the chain every price is fast enough, and nodes alone are, too.
    assert compared(PLAN, results)["chain_baseline"]["r2"]["offload_at_equal_latency"] == [1.0, 1.0]
    assert len(found) <= 3 + 5  # five of eighteen


def test_a_price_that_only_luck_made_fast_enough_gives_way_to_the_next() -> None:
    def lucky(setting: Setting, seed: int) -> Figures:
        found = law(setting, seed)
        dear = setting.drafters and setting.wan.rtt and setting.policy.local.price == 0.7
        return replace(found, seconds=found.seconds * (1.1 if dear and seed >= FEW else 1.0))

    results = raced(lucky)
    assert counts(results, FAR)["price 0.7"] == counts(results, FAR)["price 0.65"] == SEEDS
    assert compared(PLAN, results)["r2"]["offload_at_equal_latency"][1] == 0.2


def test_a_tree_that_is_unlucky_at_first_makes_no_price_look_fast_enough() -> None:
    def unlucky(setting: Setting, seed: int) -> Figures:
        found = law(setting, seed)
        slow = setting in PLAN.trees.values() and seed < FEW
        return replace(found, seconds=found.seconds * (1.05 if slow else 0.985 if setting.drafters == 0 else 1.0))

    found = counts(raced(unlucky), FAR)
    assert [name for name, played in found.items() if name.startswith("price") and played == SEEDS] == ["price 0.7"]


def test_where_the_default_is_slower_no_price_is_looked_for() -> None:
    def slow(setting: Setting, seed: int) -> Figures:
        found = law(setting, seed)
        return replace(found, seconds=found.seconds * (2.0 if setting.drafters else 1.0))

    results = raced(slow)
    assert set(counts(results, FAR)) == {NO_LOCAL, SHIPPED, NO_RELIANCE}
    assert compared(PLAN, results)["r2"]["offload_at_equal_latency"] == [0.0, 0.0]


def test_a_few_seeds_are_all_there_are() -> None:
    results = raced(law, seeds=2)
    assert {len(figures) for figures in results.values()} == {2}
    assert compared(PLAN, results)["r2"]["offload_at_equal_latency"] == [1.0, 0.21]


def test_policies_that_a_variant_leaves_out_are_not_played() -> None:
    plan = Plan(replace(PLAN.variant, policies=(NO_LOCAL, SHIPPED)), (50.0,), (2,))
    assert counts(raced(law, plan), FAR) == {NO_LOCAL: SEEDS, SHIPPED: SEEDS}


def test_who_may_be_the_fastest_can_be_named() -> None:
    asked = wanted(PLAN, Rules(SEEDS, challengers=IDEAL_CHALLENGERS), {})
    assert {name for cell in PLAN.cells for name in cell if cell[name] in asked} == {
        NO_LOCAL,
        SHIPPED,
        *IDEAL_CHALLENGERS,
    }


def test_what_is_to_be_shown_is_played_to_the_end_wherever_it_leads() -> None:
    asked = wanted(PLAN, Rules(SEEDS, shown=("price 2", "price 0.5")), {})
    assert [asked[cell[name]] for cell in PLAN.cells for name in ("price 0.5", "price 2")] == [SEEDS] * 4


def test_plans_that_share_a_setting_have_it_played_once() -> None:
    jitter = Plan(Variant(replace(PLAN.variant.base, wan=Wan(jitter=0.2))), (50.0,), (2,))
    asked = wanted_by_all((PLAN, jitter), Rules(SEEDS), {})
    assert asked == wanted(PLAN, Rules(SEEDS), {}) | wanted(jitter, Rules(SEEDS), {})
    assert len(asked) == 2 * 8 + 3 * 3  # both baselines; three policies in three cells
