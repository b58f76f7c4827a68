from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.simulation import reference
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.reference import Figures, Setting, chain_alone, play, summed, tree_alone
from wanspec_p2p.simulation.wan import Wan

SHORT = Setting(tokens=24, warm_up=0)
PLAIN = 0.030


def test_a_play_is_the_same_again() -> None:
    found = play(SHORT, 3)
    assert found == play(SHORT, 3) != play(SHORT, 4)
    assert found.tokens == 24 and found.rounds < 24 and found.remote_passes > 0
    assert 0.0 < found.per_token < PLAIN


def test_a_warm_up_is_not_counted() -> None:
    assert play(replace(SHORT, warm_up=16), 0).tokens == SHORT.tokens


def test_several_answers_follow_each_other_and_are_added_up() -> None:
    one, three = play(SHORT, 0), play(replace(SHORT, answers=3), 0)
    assert three.tokens == 3 * one.tokens and three.rounds > one.rounds and three.seconds > one.seconds
    asked = reference.prompts(3)
    assert len({*asked, reference.WARM_UP_PROMPT}) == 4 and asked[0] == reference.PROMPT


def test_without_a_drafter_at_the_target_it_drafts_nothing() -> None:
    assert play(replace(SHORT, local=False), 0).local_passes == 0


def test_an_answer_that_is_not_the_targets_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    with pytest.raises(RuntimeError, match=r"not the target's own: seed 5 of Setting\("):
        play(SHORT, 5)


def test_a_chain_takes_a_pass_a_token_and_a_round() -> None:
    found = play(chain_alone(4, SHORT), 0)
    assert found.local_passes <= 4 * found.rounds and found.remote_passes == 0
    # the verifications, and nothing but the draft passes beside them
    assert found.seconds == pytest.approx(0.030 * found.rounds + 0.005 * found.local_passes)


def test_code_makes_every_pass_of_the_target_longer_and_those_of_nodes_fewer() -> None:
    found = play(chain_alone(4, replace(SHORT, verify_code=0.003, draft_code=0.002)), 0)
    assert found.seconds == pytest.approx(0.033 * found.rounds + 0.007 * found.local_passes)
    remote = replace(SHORT, local=False)
    quick, slow = (play(replace(remote, node_code=code), 0) for code in (0.0, 0.005))
    assert slow.seconds > quick.seconds and slow.remote_passes / slow.rounds < 0.7 * quick.remote_passes / quick.rounds


def test_a_tree_is_faster_than_a_chain() -> None:
    long = replace(SHORT, tokens=96)
    tree, chain = (summed([play(alone(5, long), seed) for seed in range(2)]) for alone in (tree_alone, chain_alone))
    assert tree.per_token < chain.per_token < PLAIN


def test_baselines_have_the_models_of_what_they_are_held_against() -> None:
    base = replace(SHORT, ranks=(0.9, 0.1, 0.0, 0.0, 0.0), drafters=4, wan=Wan(0.1), local=False)
    for alone in (tree_alone(6, base), chain_alone(6, base)):
        assert (alone.ranks, alone.tokens, alone.drafters, alone.local) == (base.ranks, 24, 0, True)
        assert alone.policy.local.passes == 6 and alone.wan == Wan()


@pytest.mark.parametrize("law", ["calibrated", "recorded"])
def test_drafters_may_be_right_as_a_recorded_pair_was(law: reference.LawName) -> None:
    found = play(replace(SHORT, law=law), 0)
    assert found != play(SHORT, 0) and found.tokens == SHORT.tokens


def test_the_pair_was_recorded_at_more_than_one_temperature() -> None:
    for law in ("calibrated", "recorded"):
        setting = replace(SHORT, law=law, tokens=96)
        greedy, drawn = (
            summed([play(replace(setting, temperature=temperature), seed) for seed in range(2)])
            for temperature in (0.0, 0.8)
        )
        assert greedy == summed([play(setting, seed) for seed in range(2)])
        assert drawn.rounds > greedy.rounds  # it agrees less often there


def test_nodes_without_lanes_and_of_chains_draft_something_else() -> None:
    far = replace(SHORT, wan=Wan(0.03), local=False, tokens=48)
    as_it_is, laneless, chain = play(far, 0), play(replace(far, lanes=False), 0), play(replace(far, chain=True), 0)
    assert len({as_it_is, laneless, chain}) == 3
    assert chain.rounds > as_it_is.rounds


def test_nodes_that_rest_when_a_verdict_is_due_need_fewer_rounds() -> None:
    far = replace(SHORT, wan=Wan(0.02), local=False, tokens=256)
    assert play(far, 0).rounds < play(replace(far, rests=False), 0).rounds


def test_one_node_has_one_lane_anyway() -> None:
    one = replace(SHORT, drafters=1)
    assert play(one, 0) == play(replace(one, lanes=False), 0)


def test_figures_add_up() -> None:
    total = summed([Figures(10, 1.0, 2, 3, 4), Figures(30, 1.0, 5, 6, 7)])
    assert total == Figures(40, 2.0, 7, 9, 11)
    assert (total.per_token, total.local_per_token) == (0.05, 0.225)
