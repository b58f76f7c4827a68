"""Whatever happens to the nodes, the text is the target's own. Many more schedules: `wanspec sim faults`."""

from __future__ import annotations

import pytest

from wanspec_p2p.simulation.faults import KINDS, LAWS, play_faults


@pytest.mark.parametrize("seed", range(12))
def test_the_text_is_the_targets_own_under_any_schedule(seed: int) -> None:
    assert play_faults(seed, tokens=32).exact


@pytest.mark.parametrize("seed", range(100, 104))
def test_nor_does_it_depend_on_who_shares_the_passes(seed: int) -> None:
    assert play_faults(seed, answers=6, tokens=20).exact


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert play_faults(3, tokens=24) == play_faults(3, tokens=24)
    assert play_faults(3, tokens=24) != play_faults(4, tokens=24)


def test_schedules_do_bring_trouble() -> None:
    played = [play_faults(seed, tokens=16) for seed in range(8)]
    assert sum(one.events for one in played) > 8
    assert len({len(one.nodes) for one in played}) > 1


def test_schedules_have_nodes_of_every_kind_and_drafters_of_every_law() -> None:
    played = [play_faults(seed, answers=1, tokens=8) for seed in range(24)]
    assert all(one.exact for one in played)
    assert {one.law for one in played} == set(LAWS)
    assert {kind for one in played for kind in one.nodes} == set(KINDS)
