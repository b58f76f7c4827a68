from __future__ import annotations

import pytest

from wanspec_p2p.simulation import capacity as module
from wanspec_p2p.simulation.capacity import Case, Hardware, capacity, closed_form, per_token, study

FAST = Hardware()


def found(case: Case, limit: float, guess: int) -> tuple[int, int]:
    """Clients, and plays it took."""
    plays = 0

    def played() -> None:
        nonlocal plays
        plays += 1

    return capacity(case, FAST, limit=limit, tokens=8, seed=0, guess=guess, played=played), plays


def test_plain_decoding_takes_a_pass_a_token_and_beyond_the_flat_part_its_share_of_one() -> None:
    assert per_token(Case(), FAST, 3, tokens=8, seed=0) == pytest.approx([0.030] * 3)
    assert per_token(Case(), FAST, 130, tokens=8, seed=0) == pytest.approx([0.060] * 130)


def test_draft_passes_and_verifications_at_the_target_take_turns_on_one_device() -> None:
    """Two draft passes and one verification make at most three tokens, and at least one."""
    for seconds in per_token(Case(passes=2, chain=True), FAST, 2, tokens=16, seed=0):
        assert 0.040 / 3 <= seconds <= 0.040


def test_remote_drafts_make_answers_faster() -> None:
    assert max(per_token(Case(drafters=1), FAST, 2, tokens=16, seed=0)) < 0.025


@pytest.mark.parametrize("guess", [1, 40, 80, 106, 300])
def test_the_search_ends_near_the_most_that_are_served_wherever_it_begins(
    guess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "per_token", lambda case, hardware, clients, **_: [clients * 0.0005] * clients)
    clients, plays = found(Case(), 0.05, guess)
    assert 96 <= clients <= 100
    assert plays <= 15


def test_a_target_that_is_too_slow_for_anybody_serves_nobody() -> None:
    assert found(Case(), 0.029, 4)[0] == 0


def test_a_few_slow_answers_do_not_count_and_more_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "per_token", lambda case, hardware, clients, **_: [1.0 if n >= 38 else 0.01 for n in range(clients)]
    )
    assert found(Case(), 0.05, 40)[0] == 40


def test_the_closed_form() -> None:
    assert closed_form(5, Hardware(0.050, 0.010)) == pytest.approx(2.0)


def test_a_study_names_the_best_baselines_and_what_remote_drafting_is_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made_up(case: Case, hardware: Hardware, clients: int, **_: object) -> list[float]:
        return [0.0004 * clients * (1.0 + 0.5 * case.passes + case.rtt)] * clients

    monkeypatch.setattr(module, "per_token", made_up)
    report = study(
        Hardware(0.030, 0.010),
        limit=0.031,
        rtt_ms=(0.0, 1000.0),
        drafters=(1,),
        passes=(2, 1),
        tokens=8,
        seed=0,
        played=lambda: None,
    )
    assert report["plain"] > report["clients"]["r1"][1] > 0
    assert set(report["against"]) == {"chain", "tree"}
    for kind, own in report["against"].items():
        assert own["clients"] == report["baselines"][kind]["1"] > report["baselines"][kind]["2"] > 0
        assert own["ratio"]["r1"] == [round(clients / own["clients"], 3) for clients in report["clients"]["r1"]]
        assert own["closed_form"] == report["closed_form"]["1"] == pytest.approx(1.333)
