from __future__ import annotations

from typing import Any

import pytest

from wanspec_p2p.simulation.reference_figure import draw

pytest.importorskip("matplotlib")

LISTS = {
    "no_local_latency_ratio": [0.9, 1.1],
    "best_latency_ratio": [0.8, 1.0],
    "offload_at_equal_latency": [1.0, 0.0],
    "shipped_latency_ratio": [0.8, 1.0],
}
REPORT: dict[str, Any] = {
    "command": "wanspec sim reference --seeds 1",
    "date": "2026-01-02",
    "rtt_ms": [0.0, 30.0],
    "r3": LISTS,
    "chain_baseline": {"r3": LISTS},
}


def test_the_figure_is_an_svg_that_says_where_it_came_from_and_always_the_same() -> None:
    drawn = draw(REPORT)
    assert b"<svg" in drawn["svg"] and drawn == draw(REPORT)
    for said in (b"wanspec sim reference --seeds 1, 2026-01-02, simulated", b"3 drafters, default", b"against a chain"):
        assert said in drawn["svg"]
