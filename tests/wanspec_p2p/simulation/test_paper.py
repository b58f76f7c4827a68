from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.simulation.paper import CAPTION, plans, report, settings
from wanspec_p2p.simulation.plays import played
from wanspec_p2p.simulation.reference import Figures, Setting


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    asked: list[Setting] = []

    def play(setting: Setting, seed: int) -> Figures:
        """A chain takes 15 ms and a pass a token; a worker nearby half the passes; plain decoding 30 ms."""
        asked.append(setting)
        local = setting.policy.local
        if local.passes is not None:
            return Figures(100, 1.5 if local.passes == 6 else 2.0, local_passes=100)
        if not setting.local:
            return Figures(100, 1.4 + setting.wan.rtt * 10 if setting.drafters else 3.0)
        return Figures(100, 1.53 if local.price == 0.5 else 1.6, local_passes=40 if setting.drafters else 80)

    monkeypatch.setattr("wanspec_p2p.simulation.plays.play", play)
    return asked


def test_one_worker_a_chain_and_a_gate() -> None:
    chosen = plans((0.0, 20.0), replace(Setting(), tokens=32))
    assert set(chosen) == {"iid", "calibrated"}
    for law, plan in chosen.items():
        cells = [setting for rtt in plan.rtt_ms for setting in plan.cell(1, rtt).values()]
        assert {s.drafters for s in cells} == {1} and all(s.chain and s.law == law and s.tokens == 32 for s in cells)
        assert {(s.policy.local.rows, s.policy.local.candidates) for s in cells} == {(1, 1)}
    everything = settings(chosen)
    assert {s.policy.local.rows for s in everything} == {s.policy.local.candidates for s in everything} == {1}
    assert {s.policy.local.passes for s in everything if not s.drafters} == {None, *range(1, 9)}
    assert len(everything) == len(set(everything))
    assert any(not s.drafters and s.policy.local.passes is None and s.local for s in everything)


def test_what_is_told_is_against_the_chain(plays: list[Setting]) -> None:
    chosen = plans((0.0, 20.0))
    found = report(chosen, played(settings(chosen), 1, processes=1, progress=lambda done, of: None))
    assert len(plays) == len(settings(chosen))
    assert (found["caption"], found["rtt_ms"], found["stalls_from_ms"]) == (CAPTION, [0.0, 20.0], 70.0)
    own = found["laws"]["iid"]
    assert own["chain"] == {"passes": 6, "ms_per_token": 15.0, "passes_per_token": 1.0}
    assert own["no_local_latency_ratio"] == pytest.approx([0.9333, 1.0667])
    assert own["offload_at_equal_latency"] == [1.0, 0.0]
    assert own["offload_few_percent_slower"] == [1.0, 0.6]  # 1.53 s is 2 % slower
    assert own["few_percent_latency_ratio"] == pytest.approx([0.9333, 1.02])
    gate = own["no_worker"]
    assert (gate["best_latency_ratio"], gate["offload_at_equal_latency"], gate["offload_few_percent_slower"]) == (
        1.02,
        0,
        0.2,
    )
    assert gate["no_local_latency_ratio"] == 2.0
    assert [point["offload"] for point in found["published"]] == [(0.5, 1.0), (0.2, 0.3)]


def test_a_real_one_in_small() -> None:
    chosen = plans((10.0,), Setting(tokens=24, warm_up=0))
    found = report(chosen, played(settings(chosen), 1, processes=1, progress=lambda done, of: None))
    for own in found["laws"].values():
        assert 0.3 < own["best_latency_ratio"][0] < 1.5
        assert -1.0 < own["shipped_offload"][0] < 1.0
