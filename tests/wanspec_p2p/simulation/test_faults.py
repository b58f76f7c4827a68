"""Whatever happens to the nodes, the text is the target's own. Many more schedules: `wanspec sim faults`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from wanspec_p2p.simulation.faults import KINDS, LAWS, TEMPERATURES, play_faults
from wanspec_p2p.simulation.models import SimulatedTarget
from wanspec_p2p.speculation import drafter_session, target_session
from wanspec_p2p.speculation.sampling import Choice, Row, Sampler
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import Sampling, TokenId

GREEDY, DRAWN = (0, 3), (9, 33, 34, 53)
"""Seeds of schedules whose nodes' drafts come in time."""


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


def test_answers_are_greedy_and_drawn_with_penalties_and_without() -> None:
    played = [play_faults(seed, answers=1, tokens=2) for seed in range(24)]
    samplings = [one.sampling for one in played]
    assert 8 <= sum(sampling.greedy for sampling in samplings) <= 16
    assert {sampling.temperature for sampling in samplings} == {0.0, *TEMPERATURES}
    for greedy in (True, False):
        assert {sampling.plain for sampling in samplings if sampling.greedy is greedy} == {True, False}
    assert {(sampling.top_k > 0, sampling.top_p < 1.0) for sampling in samplings} == {
        (top_k, top_p) for top_k in (True, False) for top_p in (True, False)
    }


@pytest.mark.parametrize("seed", [*GREEDY, *DRAWN])
def test_drafts_are_right_at_times_and_wrong_at_times(seed: int) -> None:
    played = play_faults(seed, tokens=32)
    assert played.exact and played.sampling.greedy is (seed in GREEDY)
    assert 0 < played.right < played.judged


def test_an_answer_that_is_not_what_the_rule_says_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_at_the_end(self: SimulatedTarget, spec: SessionSpec) -> list[TokenId]:
        *answer, last = decoded(self, spec)
        return [*answer, (last + 1) % spec.vocab_size]

    decoded = SimulatedTarget.decoded
    monkeypatch.setattr(SimulatedTarget, "decoded", off_at_the_end)
    assert not any(play_faults(seed, tokens=8).exact for seed in (*GREEDY, *DRAWN))


class OtherNoise(Sampler):
    """Of a seed that is one bit off."""

    def __init__(self, sampling: Sampling, seed: bytes, *others: Any) -> None:
        super().__init__(sampling, bytes([seed[0] ^ 1, *seed[1:]]), *others)


class SameNoise(Sampler):
    """Draws for each token of a pass as for the first."""

    def choose(self, row: Row, path: Sequence[TokenId] = ()) -> Choice:
        return super().choose(row)


@pytest.mark.parametrize("broken", [OtherNoise, SameNoise])
def test_a_target_that_draws_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch, broken: type[Sampler]) -> None:
    monkeypatch.setattr(target_session, "Sampler", broken)
    assert not any(play_faults(seed, tokens=32).exact for seed in DRAWN)
    assert all(play_faults(seed, tokens=32).exact for seed in GREEDY)


def test_nodes_that_draw_otherwise_change_no_token_and_bring_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def right() -> int:
        played = [play_faults(seed, tokens=32) for seed in DRAWN]
        assert all(one.exact for one in played)
        return sum(one.right for one in played)

    alike = right()
    monkeypatch.setattr(drafter_session, "Sampler", OtherNoise)
    assert right() < 0.5 * alike
