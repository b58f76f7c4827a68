from __future__ import annotations

import pytest

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import Measurement
from wanspec_p2p.simulation.load_figure import draw
from wanspec_p2p.simulation.load_map import load_map

pytest.importorskip("matplotlib")

ENDPOINTS = [ProbedEndpoint(name, name, "https://h.example/v1", "m") for name in ("$west$", "dead")]
FOUND = [
    Measurement("$west$", 1_800_057_600.0, 0.5, 0.02, 8),
    Measurement("$west$", 1_800_061_300.0, 0.7, None, 1),
    Measurement("dead", 1_800_061_300.0, failure="timeout"),
]


def test_the_figure_is_an_svg_and_a_png_and_always_the_same() -> None:
    found = load_map(ENDPOINTS, FOUND)
    drawn = draw(found)
    assert set(drawn) == {"svg", "png"}
    assert drawn["png"].startswith(b"\x89PNG")
    assert b"<svg" in drawn["svg"]
    assert draw(found) == drawn


def test_made_up_delays_are_labelled_in_the_title() -> None:
    for synthetic in (True, False):
        svg = draw(load_map(ENDPOINTS, FOUND, synthetic=synthetic))["svg"].decode()
        assert ("SYNTHETIC" in svg) is synthetic


def test_regions_that_are_made_up_are_marked_where_others_are_not() -> None:
    made_up = ProbedEndpoint("lab", "lab", "http://127.0.0.1:1/v1", "m", synthetic=True)
    svg = draw(load_map([*ENDPOINTS, made_up], [*FOUND, Measurement("lab", 1_800_057_600.0, 0.5, 0.02, 8)]))["svg"]
    assert b"some SYNTHETIC delays" in svg
    assert svg.count(b"(synthetic)") == svg.count(b"lab (synthetic)") == 1


def test_hours_of_which_most_failed_are_hatched_and_say_how_many() -> None:
    served = [Measurement("$west$", 1_800_057_600.0 + hour * 3600, 0.5, 0.02, 8) for hour in range(24)]
    assert b"hatched" not in draw(load_map(ENDPOINTS, served))["svg"]
    failed = [Measurement("$west$", 1_800_057_600.0, 60.0, failure="timeout")] * 2
    drawn = draw(load_map(ENDPOINTS, [*served, *failed]))["svg"]
    assert b"hatched: at least half failed" in drawn
    assert b">67<" in drawn  # percent


def test_regions_without_one_answer_are_drawn_empty() -> None:
    drawn = draw(load_map(ENDPOINTS, FOUND[2:]))
    assert b"dead" in drawn["svg"]
