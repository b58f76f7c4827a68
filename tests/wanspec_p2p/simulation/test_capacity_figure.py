from __future__ import annotations

from typing import Any

import pytest

from wanspec_p2p.simulation.capacity_figure import draw

pytest.importorskip("matplotlib")

REPORT: dict[str, Any] = {
    "command": "wanspec sim capacity --limit 50",
    "date": "2026-01-02",
    "limit_ms": 50.0,
    "draft_rows": 24,
    "share": 5,
    "rtt_ms": [0.0, 30.0],
    "clients": {"r3": [90, 80]},
    "plain": 70,
    "against": {"chain": {"passes": 2, "clients": 50, "closed_form": 1.4}},
    "gate": {"clients": 60, "remote": {"r3": [95, 85]}},
}


def test_the_figure_is_an_svg_that_says_where_it_came_from_and_always_the_same() -> None:
    drawn = draw(REPORT)
    assert b"<svg" in drawn["svg"] and drawn == draw(REPORT)
    for said in (
        b"wanspec sim capacity --limit 50, 2026-01-02, simulated",
        b"3 remote drafters",
        b"chain at the target, 2 passes",
        b"plain decoding",
        b"a drafter at the target by its gate",
        b"3 remote drafters beside it",
        b"flat up to 24 rows, a node shared by 5",
    ):
        assert said in drawn["svg"]


def test_it_comes_as_a_png_too() -> None:
    assert draw(REPORT)["png"].startswith(b"\x89PNG")
