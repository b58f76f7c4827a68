from __future__ import annotations

import msgspec
import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.adversity import Adversity
from wanspec_p2p.simulation.scenario import (
    Adversaries,
    Churn,
    Drafter,
    Region,
    Scenario,
    Target,
    Way,
)
from wanspec_p2p.simulation.scenario_play import Outcome
from wanspec_p2p.simulation.testbed_scene import (
    CONDITIONS,
    Act,
    Seen,
    compared,
    conditions,
    of_file,
    playable,
    stretched,
)

SMALL = Adversity(64)


def test_all_times_of_a_scenario_are_stretched_and_nothing_else() -> None:
    scenario = Scenario(
        target=Target(pass_ms=20.0),
        drafter=Drafter(pass_ms=4.0),
        wan=Way(jitter=0.2),
        region=(Region(name="a", rtt_ms=10.0), Region(name="b", delay_ms=30.0, jitter_ms=2.0)),
        churn=Churn(loss_per_round=0.1, replaced_after_ms=50.0, kill_share=0.5, kill_at_ms=100.0),
    )
    longer = stretched(scenario, 3.0)
    assert (longer.target.pass_ms, longer.drafter.pass_ms) == (60.0, 12.0)
    assert [wan.rtt for wan in longer.ways] == pytest.approx([3.0 * wan.rtt for wan in scenario.ways])
    assert [wan.jitter for wan in longer.ways] == pytest.approx([wan.jitter for wan in scenario.ways])
    assert longer.churn == Churn(0.1, 150.0, False, 0.5, 300.0)
    assert stretched(scenario, 1.0) == scenario
    assert stretched(Scenario(wan=Way(rtt_ms=30.0)), 2.0) == Scenario(
        target=Target(pass_ms=60.0), drafter=Drafter(pass_ms=10.0), wan=Way(rtt_ms=60.0), churn=Churn(kill_at_ms=2000.0)
    )


def test_every_word_is_a_condition_beside_a_baseline_that_differs_from_it_only_in_trouble() -> None:
    for condition in conditions(SMALL, CONDITIONS, 4.0):
        (baseline, slow), (scenario, same) = condition.plays
        assert slow == same == (2.0 if condition.name == "far" else 4.0)
        assert baseline.target == scenario.target and baseline.tokens == scenario.tokens
        assert baseline.churn in (Churn(), Churn(kill_at_ms=500.0)) and baseline.adversaries == Adversaries()
        assert bool(baseline.ways) is (condition.against != "alone")


def test_what_is_promised_of_each() -> None:
    found = [(one.name, one.scenario.target.local_drafter, one.most) for one in conditions(SMALL, CONDITIONS, 1.0)]
    assert ("lying", False, 1 / 0.97) in found and ("lying", True, 1.02) in found
    assert ("0.001 lost", True, 1 / 0.95) in found and ("0.01 lost", False, 1 / 0.85) in found
    assert ("30% of 10 killed", False, None) in found
    assert len(found) == 8 * 2 + 2 * 2 + 1


def test_of_a_file_the_baseline_is_the_same_target_alone() -> None:
    scenario = Scenario(nodes=3, adversaries=Adversaries(far=1), target=Target(local_drafter=False))
    condition = of_file("mine", scenario, 8.0)
    assert condition.baseline.ways == [] and not condition.baseline.target.local_drafter
    assert (condition.name, condition.slow, condition.most) == ("mine", 2.0, None)
    assert of_file("mine", Scenario(), 8.0).slow == 8.0


@pytest.mark.parametrize(
    ("scenario", "key"),
    [
        (Scenario(target=Target(price=1.0)), r"target\.price"),
        (Scenario(wan=Way(stall_chance=0.1)), "stall_chance"),
        (Scenario(region=(Region(name="a", bandwidth=1e6),)), "bandwidth"),
        (Scenario(nodes=33), "nodes"),
    ],
)
def test_what_the_testbed_cannot_play_is_named(scenario: Scenario, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        playable(scenario)


def outcome(ms: float, *, local_passes: int = 0, lost: int = 0) -> Outcome:
    return Outcome(tokens=100, seconds=ms / 10, span=ms / 10, rounds=40, local_passes=local_passes, lost=lost)


def seen(found: Outcome, *, identical: bool = True) -> Seen:
    return Seen(found, identical, 0.0005, 0.75)


def test_a_line_has_both_worlds_as_if_nothing_had_been_stretched() -> None:
    lying = conditions(SMALL, ("lying",), 2.0)[1]
    base, act = lying.plays
    simulated: dict[Act, Outcome] = {base: outcome(20.0, local_passes=100), act: outcome(20.0, local_passes=80)}
    own = seen(outcome(20.2, local_passes=60)), seen(outcome(20.6, local_passes=30, lost=2))
    report = compared([lying], [own], simulated)
    assert report["identical"] is True
    assert report["conditions"] == [
        {
            "condition": "lying",
            "local_drafter": True,
            "against": "alone",
            "slow": 2.0,
            "identical": True,
            "testbed": {
                "ms_per_token": 10.3,
                "baseline_ms_per_token": 10.1,
                "latency_ratio": 1.0198,
                "tokens_per_second": 97.1,
                "baseline_tokens_per_second": 99.0,
                "offload": 0.5,
                "rounds": 40,
                "lost": 2,
            },
            "simulator": {
                "ms_per_token": 10.0,
                "baseline_ms_per_token": 10.0,
                "latency_ratio": 1.0,
                "tokens_per_second": 100.0,
                "baseline_tokens_per_second": 100.0,
                "offload": 0.2,
                "rounds": 40,
                "lost": 0,
            },
            "latency_at_most": 1.02,
            "kept": True,
            "late_ms_per_pass": 0.5,
            "machine": 0.75,
        }
    ]


@pytest.mark.parametrize("wrong", [0, 1])
def test_one_answer_that_is_not_the_targets_is_enough(wrong: int) -> None:
    chosen = conditions(SMALL, ("silent",), 1.0)
    simulated = {act: outcome(30.0) for condition in chosen for act in condition.plays}
    pairs = [(seen(outcome(30.0)), seen(outcome(33.0))) for _ in chosen]
    good = compared(chosen, pairs, simulated)
    assert good["identical"] is True and [line["kept"] for line in good["conditions"]] == [False, False]
    assert [line["testbed"]["offload"] for line in good["conditions"]] == [None, None]
    bad = list(pairs[1])
    bad[wrong] = seen(outcome(30.0), identical=False)
    report = compared(chosen, [pairs[0], (bad[0], bad[1])], simulated)
    assert report["identical"] is False and [line["identical"] for line in report["conditions"]] == [True, False]


def test_times_of_a_scenario_that_is_stretched_are_still_those_of_its_file_in_the_report() -> None:
    condition = of_file("mine", msgspec.structs.replace(Scenario(), tokens=8), 4.0)
    base, act = condition.plays
    simulated = {base: outcome(120.0), act: outcome(40.0)}
    (line,) = compared([condition], [(seen(outcome(120.0)), seen(outcome(40.0)))], simulated)["conditions"]
    assert line["simulator"] == line["testbed"] and line["testbed"]["ms_per_token"] == 10.0
    assert line["latency_at_most"] is None and line["kept"] is True
