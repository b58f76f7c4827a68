from __future__ import annotations

from typing import Any

import pytest

from wanspec_p2p.simulation import capacity as module
from wanspec_p2p.simulation.capacity import TREE_ROWS, capacity, closed_form, study
from wanspec_p2p.simulation.capacity_play import Case, Hardware

FAST = Hardware()


def found(case: Case, limit: float, guess: int) -> tuple[int, int]:
    """Clients, and plays it took."""
    plays = 0

    def played() -> None:
        nonlocal plays
        plays += 1

    return capacity(case, FAST, limit=limit, tokens=8, seed=0, guess=guess, played=played), plays


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
    assert found(Case(held=1), 0.05, 40)[0] == 39  # whose mean counts


def test_the_closed_form() -> None:
    assert closed_form(5, Hardware(0.050, 0.010)) == pytest.approx(2.0)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of passes that cost what they cost, and of trees of which 2 rows a pass are best."""

    def made_up(case: Case, hardware: Hardware, clients: int, **_: object) -> list[float]:
        dear = (
            1.0
            - 0.1 * case.gate
            + 0.5 * case.passes
            + case.rtt
            + 0.1 * (case.rows not in (None, 2))
            + 0.2 * (case.held or 0)
        )
        return [0.0004 * clients * dear] * clients

    monkeypatch.setattr(module, "per_token", made_up)
    return study(
        Hardware(0.030, 0.010),
        limit=0.031,
        rtt_ms=(0.0, 1000.0),
        drafters=(1,),
        passes=(2, 1),
        held=(2,),
        tokens=8,
        seed=0,
        played=lambda: None,
    )


def test_a_study_names_the_best_baselines_and_what_remote_drafting_is_beside_them(report: dict[str, Any]) -> None:
    assert report["plain"] > report["clients"]["r1"][1] > 0
    assert set(report["against"]) == {"chain", "tree"}
    for kind, own in report["against"].items():
        assert own["clients"] == report["baselines"][kind]["1"] > report["baselines"][kind]["2"] > 0
        assert own["ratio"]["r1"] == [round(clients / own["clients"], 3) for clients in report["clients"]["r1"]]
        assert own["closed_form"] == report["closed_form"]["1"] == pytest.approx(1.333)


def test_a_target_that_goes_by_its_gate_is_counted_alone_and_beside_remote_drafters(report: dict[str, Any]) -> None:
    gate = report["gate"]
    assert gate["clients"] > report["plain"]
    assert gate["clients"] >= gate["remote"]["r1"][0] > report["clients"]["r1"][0]
    assert gate["remote"]["r1"][1] < gate["remote"]["r1"][0]


def test_a_tree_has_its_best_rows_a_pass(report: dict[str, Any]) -> None:
    for passes, by_rows in report["tree_rows"].items():
        assert list(by_rows) == list(map(str, TREE_ROWS))
        assert report["baselines"]["tree"][passes] == by_rows["2"] == max(by_rows.values())


def test_a_number_of_tokens_a_round_is_held_to_on_both_sides(report: dict[str, Any]) -> None:
    held = report["held"]["2"]
    assert held["closed_form"] == pytest.approx(1.667)
    assert held["clients"]["r1"][0] == pytest.approx(0.031 / (0.0004 * 1.4), abs=3)
    assert held["chain"] == pytest.approx(0.031 / (0.0004 * 2.4), abs=2)
    assert held["ratio"]["r1"] == [round(clients / held["chain"], 3) for clients in held["clients"]["r1"]]
