from __future__ import annotations

import pytest

from wanspec_p2p.simulation import adversity
from wanspec_p2p.simulation.adversity import Adversity, study
from wanspec_p2p.simulation.scenario import Scenario
from wanspec_p2p.simulation.scenario_play import Outcome
from wanspec_p2p.simulation.swarm_better import ANSWERS_A_MINUTE
from wanspec_p2p.simulation.swarm_kill import SwarmOutcome
from wanspec_p2p.speculation.policy import Policy

Told = list[tuple[str, int, int]]


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds per token of what is played: nothing is simulated. Liars take as long as "lying" says, and so on."""
    slow = {"lying": 0.030, "lossy": 0.012, "steady": 0.012, "mixed": 0.0125}

    def play(scenario: Scenario, policy: Policy, seed: int) -> Outcome:
        per_token = slow["steady"] if scenario.ways else 0.030
        if scenario.adversaries.lying:
            per_token = slow["lying"]
        if len(scenario.ways) == 4:
            per_token = slow["mixed"]
        if scenario.churn.loss_per_round:
            per_token = slow["lossy"]
        tokens = scenario.tokens * scenario.at_once
        lost = 6 if scenario.churn.kill_share else 0
        return Outcome(tokens, tokens * per_token, tokens * per_token / scenario.at_once, tokens, lost=lost)

    def play_swarm(seed: int, **rest: float) -> SwarmOutcome:
        answers = int(rest["answers"])
        return SwarmOutcome(answers, int(slow.get("identical", answers)), 2048, 4.0, int(6 * (rest["share"] > 0)), 1)

    monkeypatch.setattr("wanspec_p2p.simulation.scenario_play.play", play)

    def play_better(seed: int, *, minutes: int, tokens: int, far: float, near: float) -> list[float]:
        assert (minutes, tokens, near) == (6, 16, 0.005)
        return [0.016] * (minutes - 1) + [slow.get("later", 0.009) if far > near else 0.008]

    monkeypatch.setattr(adversity, "play_swarm", play_swarm)
    monkeypatch.setattr(adversity, "play_better", play_better)
    return slow


def test_everything_is_played_beside_what_it_is_held_against(pace: dict[str, float]) -> None:
    told: Told = []
    found = study(Adversity(32), 2, lambda *progress: told.append(progress))
    bad, churn, killed = found["never_slower"], found["churn"], found["killed"]
    kinds = {"lying", "silent", "far", "flapping", "stalling", "poor", "slow", "honest"}
    assert {(line["drafters"], line["local_drafter"]) for line in bad} == {
        (k, own) for k in kinds for own in (True, False)
    }
    assert {(line["drafters"], line["local_drafter"]) for line in found["beside_good"]} == {
        (k, own) for k in kinds - {"honest"} for own in (True, False)
    }
    assert {line["loss_per_round"] for line in churn} == {0.001, 0.01} and len(churn) == 12
    assert [line["played"] for line in killed] == ["one target, its nodes attached", "three targets and a coordinator"]
    assert [(line["answers"], line["complete_and_identical"], line["lost"]) for line in killed] == [(16, 16, 12)] * 2
    assert [line["ms_per_token_by_minute"] for line in found["better_later"]] == [[16.0] * 5 + [9.0]]
    assert all(line["kept"] for lines in found.values() for line in lines)
    assert told[-3:] == [("with a coordinator", 4, 4), ("better nodes later", 1, 2), ("better nodes later", 2, 2)]


def test_each_line_says_whether_its_promise_is_kept(pace: dict[str, float]) -> None:
    pace |= {"lying": 0.0308, "lossy": 0.0135, "mixed": 0.0127, "later": 0.0095, "identical": 7}
    found = study(Adversity(32), 1, lambda *progress: None)
    lying = {line["local_drafter"]: line for line in found["never_slower"] if line["drafters"] == "lying"}
    assert {line["tree_ms_per_token"] for line in found["never_slower"]} == {None, 30.0}
    assert lying[False]["kept"] and lying[False]["speed_ratio"] == pytest.approx(0.974, abs=1e-3)
    assert not lying[True]["kept"] and lying[True]["latency_ratio"] == pytest.approx(1.0267, abs=1e-3)
    assert {(line["cost"], line["kept"]) for line in found["beside_good"]} == {(0.0583, False)}
    assert {(line["loss_per_round"], line["kept"]) for line in found["churn"]} == {(0.001, False), (0.01, True)}
    assert {line["cost"] for line in found["churn"]} == {0.1111}
    assert [(line["cost"], line["kept"]) for line in found["better_later"]] == [(0.1875, False)]
    assert [line["kept"] for line in found["killed"]] == [True, False]


def test_what_is_played_is_the_setting_that_is_told() -> None:
    wanted = Adversity()
    for (kind, local), scenario in wanted.bad.items():
        assert (scenario.tokens, scenario.warm_up, scenario.target.local_drafter) == (256, 0, local)
        assert scenario.adversaries.kinds == ([] if kind == "honest" else [kind] * 2)
        assert {wan.rtt for wan in scenario.ways} == {0.010}
    for (kind, local), scenario in wanted.mixed.items():
        assert (scenario.tokens, scenario.warm_up, scenario.target.local_drafter) == (256, 256, local)
        assert (scenario.adversaries.kinds, len(scenario.ways), scenario.per_session) == ([kind] * 2, 4, 2)
        good = wanted.good(local)
        assert (good.adversaries.kinds, len(good.ways), good.warm_up, good.wan) == ([], 2, 256, scenario.wan)
    for (chance, replacement, local), scenario in wanted.lossy.items():
        assert (scenario.churn.loss_per_round, scenario.churn.silently) == (chance, "silently" in replacement)
        assert (scenario.per_session, scenario.tokens, scenario.target.local_drafter) == (2, 1024, local)
        assert len(scenario.ways) == (4 if "attached" in replacement else 2)
        assert {wan.rtt for wan in scenario.ways} == {0.030}
    assert [(s.churn.kill_share, s.at_once, len(s.ways)) for s in wanted.killed.values()] == [
        (0.0, 8, 20),
        (0.3, 8, 20),
    ]


def test_minutes_are_minutes_however_long_answers_are(pace: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def play_better(seed: int, *, minutes: int, tokens: int, far: float, near: float) -> list[float]:
        asked.append(tokens)
        return [0.016] * minutes

    monkeypatch.setattr(adversity, "play_better", play_better)
    for tokens in (256, 4096):
        study(Adversity(tokens), 1, lambda *progress: None)
    assert asked == [128, 128, 256, 256] and 256 * 0.030 < 60.0 / ANSWERS_A_MINUTE
