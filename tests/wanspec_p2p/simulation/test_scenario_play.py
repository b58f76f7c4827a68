from __future__ import annotations

import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation import scenario_play
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.reference import PASSES
from wanspec_p2p.simulation.scenario import Adversaries, Churn, Region, Scenario, Target, Way
from wanspec_p2p.simulation.scenario_play import Outcome, alone, play, played, policy_of, total, trees

SHORT = Scenario(tokens=24, warm_up=0, wan=Way(rtt_ms=10.0))


def once(scenario: Scenario, seed: int = 0) -> Outcome:
    return play(scenario, policy_of(scenario), seed)


def test_a_play_is_the_same_again() -> None:
    found = once(SHORT)
    assert found == once(SHORT) != once(SHORT, 1)
    assert found.tokens == 24 and 0 < found.rounds < 24 and found.remote_passes > 0
    assert found.per_token < 0.030 and found.tokens_per_second == pytest.approx(1.0 / found.per_token)


def test_the_target_alone_decodes_plainly_or_with_its_own_drafter() -> None:
    busy = Scenario(
        tokens=24,
        warm_up=0,
        hour=1,
        region=(Region(name="x", delay_ms=3.0, load=(1.0,) * 24),),
        churn=Churn(loss_per_round=0.5),
        adversaries=Adversaries(lying=1),
        target=Target(pass_ms=40.0),
    )
    plain, own = alone(busy, local=False), alone(busy, local=True)
    assert plain.ways == own.ways == [] and plain.per_session == 0
    assert once(plain).per_token == pytest.approx(0.040) and once(plain).local_passes == 0
    assert 0 < once(own).per_token < 0.040
    assert set(trees(busy)) == set(PASSES)
    assert {scenario for scenario, _ in trees(busy).values()} == {own}


def test_answers_at_once_share_the_target() -> None:
    found = once(Scenario(tokens=24, warm_up=0, at_once=3, nodes=4))
    assert found.tokens == 72
    assert found.span < found.seconds <= 3 * found.span


def test_a_price_spares_passes_and_a_warm_up_is_not_counted() -> None:
    dear = Scenario(tokens=24, warm_up=16, nodes=0, target=Target(price=20.0))
    assert once(dear).tokens == 24
    assert once(dear).local_passes < once(alone(SHORT, local=True)).local_passes


def test_losses_are_counted() -> None:
    found = once(Scenario(tokens=48, warm_up=0, churn=Churn(loss_per_round=0.2), target=Target(local_drafter=False)))
    assert found.lost > 0 and found.tokens == 48


def test_each_is_played_with_each_seed_once() -> None:
    told: list[tuple[int, int]] = []
    one = (SHORT, policy_of(SHORT))
    found = played([one, one], 2, lambda done, of: told.append((done, of)))
    assert found == {one: [once(SHORT, 0), once(SHORT, 1)]} and told == [(1, 2), (2, 2)]
    assert total(found[one]).tokens == 48


def test_another_text_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    with pytest.raises(RuntimeError, match="not the target's own: seed 7 of Scenario"):
        once(SHORT, 7)


def test_nodes_that_never_arrive_are_said() -> None:
    near, far = Region(name="near", rtt_ms=1.0), Region(name="far", rtt_ms=3_600_000.0)
    with pytest.raises(ConfigError, match="^a node did not reach the target, or an answer did not end"):
        once(Scenario(tokens=4, warm_up=0, region=(near, far)))


def test_totals_of_nothing_are_nothing() -> None:
    assert total([]) == Outcome() and scenario_play.total([Outcome(1, lost=2)] * 2) == Outcome(2, lost=4)
