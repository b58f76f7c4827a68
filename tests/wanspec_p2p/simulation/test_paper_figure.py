from __future__ import annotations

from typing import Any

import pytest

from wanspec_p2p.simulation.paper_figure import draw


@pytest.fixture
def report() -> dict[str, Any]:
    pytest.importorskip("matplotlib")
    own = {
        "no_local_latency_ratio": [0.9, 1.2],
        "best_latency_ratio": [0.9, 1.0],
        "shipped_latency_ratio": [0.9, 1.0],
        "offload_at_equal_latency": [1.0, 0.3],
        "offload_few_percent_slower": [1.0, 0.5],
        "no_worker": {"offload_few_percent_slower": 0.2},
    }
    return {
        "caption": "WANSpec-style reconstruction",
        "command": "wanspec sim paper --seeds 1",
        "date": "2026-11-24",
        "rtt_ms": [0.0, 50.0],
        "laws": {"iid": own, "calibrated": own},
        "published": [
            {"offload": (0.5, 1.0), "rtt_ms": (0.0, 30.0), "said": "over 50 % fewer"},
            {"offload": (0.2, 0.3), "rtt_ms": None, "said": "20-30 % fewer"},
        ],
        "stalls_from_ms": 70.0,
    }


def test_the_figure_says_what_it_is_and_marks_what_was_published(report: dict[str, Any]) -> None:
    drawn = draw(report)
    svg = drawn["svg"].decode()
    for text in ("WANSpec-style reconstruction", "wanspec sim paper --seeds 1", "2026-11-24", "simulated"):
        assert text in svg
    assert "paper: over 50 % fewer" in svg and "paper: 20-30 % fewer" in svg
    assert "iid: at no more latency" in svg and "calibrated: default" in svg
    assert drawn["png"].startswith(b"\x89PNG")


def test_the_same_figures_give_the_same_files(report: dict[str, Any]) -> None:
    assert draw(report) == draw(report)
