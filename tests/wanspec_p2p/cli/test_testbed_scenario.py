"""Scenarios in small: every process a real one, also those that are killed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from wanspec_p2p.cli.testbed_scenario import observe
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.scenario import Adversaries, Churn, Drafter, Scenario, Target, Way

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("nothing_left")]

QUICK = Scenario(
    warm_up=0,
    wan=Way(rtt_ms=4.0),
    target=Target(pass_ms=20.0, local_drafter=False),
    drafter=Drafter(pass_ms=2.0),
)


def test_a_node_that_lies_one_that_is_silent_and_one_whose_link_breaks_change_no_token() -> None:
    bad = Adversaries(lying=1, silent=1, flapping=1)
    seen = observe(replace(QUICK, tokens=24, nodes=3, drafters=3, adversaries=bad), 1.0, 3)
    assert seen.identical and seen.outcome.tokens == 24 and seen.outcome.lost == 0
    assert 0 < seen.outcome.rounds <= 24 and 0.0 < seen.outcome.seconds < seen.outcome.span + 1.0


def test_killed_nodes_are_missed_by_nobody_and_others_join_in_their_place() -> None:
    churn = Churn(loss_per_round=0.1, kill_share=0.5, kill_at_ms=60.0)
    seen = observe(replace(QUICK, tokens=32, at_once=2, nodes=2, churn=churn), 1.0, 1)
    assert seen.identical and seen.outcome.tokens == 64 and seen.outcome.lost > 1


def test_a_text_that_is_not_the_targets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    assert not observe(replace(QUICK, tokens=4, nodes=0), 1.0, 0).identical
