"""What ideal drafters would reach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.simulation.ideal import play_ideal
from wanspec_p2p.simulation.reference import Figures, Setting, play, summed, tree_alone
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

REMOTE = Setting(local=False)
SEEDS = range(4)


def ideal(setting: Setting, seeds: range = SEEDS) -> Figures:
    return summed([play_ideal(setting, seed) for seed in seeds])


def at(rtt_ms: float, base: Setting = REMOTE) -> Setting:
    return replace(base, wan=Wan(rtt=rtt_ms / 1000.0))


def test_without_drafts_each_verification_makes_a_token() -> None:
    alone = play_ideal(replace(REMOTE, drafters=0), 0)
    assert (alone.tokens, alone.rounds, alone.local_passes, alone.remote_passes) == (256, 256, 0, 0)
    assert alone.seconds == pytest.approx(256 * 0.030)


def test_a_tree_at_the_target_takes_its_passes_before_each_verification() -> None:
    tree = play_ideal(tree_alone(5), 0)
    assert tree.local_passes == 5 * tree.rounds
    assert tree.seconds == pytest.approx(tree.rounds * (0.030 + 5 * 0.005))


def test_a_drafter_that_is_always_right_is_as_fast_as_its_passes() -> None:
    """Each token needs one, however many rows that has; the first verification has nothing to go by."""
    found = play_ideal(at(0.0, replace(REMOTE, drafters=1, ranks=(1.0, 0.0, 0.0, 0.0, 0.0))), 0)
    assert 0.0050 <= found.per_token <= 0.0052


def test_more_drafters_and_shorter_ways_are_faster() -> None:
    by_count = [ideal(at(10.0, replace(REMOTE, drafters=count))).per_token for count in (1, 2, 4, 8)]
    by_distance = [ideal(at(rtt)).per_token for rtt in (0.0, 20.0, 50.0, 500.0)]
    assert by_count == sorted(by_count, reverse=True)
    assert by_distance == sorted(by_distance) and by_distance[-1] <= 0.030


def test_a_pass_at_the_target_is_run_only_if_it_pays() -> None:
    def priced(price: float) -> Figures:
        return ideal(at(30.0, Setting(policy=Policy(local=LocalDrafting(price=price)))))

    remote = ideal(at(30.0))
    assert priced(1e9) == remote, "weighing one leaves no trace"
    assert priced(0.25).per_token < remote.per_token
    assert priced(1.0).local_passes < priced(0.25).local_passes


def test_the_shipped_code_is_not_ahead_of_it() -> None:
    for setting in (at(20.0), at(20.0, Setting())):
        assert summed([play(setting, seed) for seed in SEEDS]).per_token > ideal(setting).per_token


def test_it_meets_the_same_text_with_the_same_luck() -> None:
    """A tree at the target has nothing that could be ideal but its chances and its cache."""
    for seed in SEEDS:
        calculated, shipped = play_ideal(tree_alone(5), seed), play(tree_alone(5), seed)
        assert calculated.tokens == shipped.tokens == 256
        assert calculated.per_token == pytest.approx(shipped.per_token, rel=0.03)


@pytest.mark.parametrize("setting", [replace(REMOTE, law="recorded"), replace(REMOTE, wan=Wan(jitter=0.2))])
def test_there_is_no_ideal_for_what_it_does_not_know(setting: Setting) -> None:
    with pytest.raises(ValueError, match="an ideal is known for"):
        play_ideal(setting, 0)
