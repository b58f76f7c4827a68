from __future__ import annotations

import pytest

from wanspec_p2p.simulation.reference import PASSES, Figures, Setting
from wanspec_p2p.simulation.testbed import Bed, Cell, Code, Observed, compared
from wanspec_p2p.simulation.wan import Wan

NEAR, FAR = Cell(10.0, 2, 0.0), Cell(150.0, 1, 0.2)
BASE = Setting(tokens=100, answers=2)
NONE = Code()


def figures(ms: float, local_passes: int, *, rounds: int = 40) -> Figures:
    """Of two answers; times as a bed that is twice as slow has them."""
    return Figures(200, 200 * ms * 2.0 / 1000.0, rounds, local_passes, 800)


def seen(found: Figures, code: Code = NONE) -> Observed:
    return Observed(found, found.seconds + 0.4, {"target": 0.0002}, code, {"target": 0.1, "machine": 0.5})


def test_a_cell_has_its_distance_and_everybody_times_as_stretched() -> None:
    setting = Bed((FAR,), BASE, 4.0).setting(FAR)
    assert setting.wan == Wan(rtt=0.6, jitter=0.2) and setting.drafters == 1
    assert (setting.verify, setting.draft) == (0.12, 0.02) and (setting.tokens, setting.answers) == (100, 2)


def test_the_simulator_plays_each_setting_once_and_the_trees_of_the_same_times() -> None:
    bed = Bed((NEAR, FAR, NEAR), BASE, 2.0)
    assert len(bed.settings) == 2 + len(PASSES)
    assert all(tree.verify == 0.06 and tree.drafters == 0 and tree.answers == 2 for tree in bed.trees.values())
    assert [tree.policy.local.passes for tree in bed.trees.values()] == list(PASSES)


@pytest.mark.parametrize(
    ("ms", "local_passes", "within"),
    [(10.9, 100, True), (11.1, 100, False), (9.1, 100, True), (8.9, 100, False), (10.0, 119, True), (10.0, 121, False)],
)
def test_within_is_ten_percent_and_ten_points(ms: float, local_passes: int, within: bool) -> None:
    bed = Bed((NEAR,), BASE, 2.0)
    played = {setting: [figures(10.0, 100)] for setting in bed.settings}
    played |= {tree: [figures(11.0 + passes, 200)] for passes, tree in bed.trees.items()}
    report = compared(bed, [seen(figures(ms, local_passes))], played)
    (cell,) = report["cells"]
    assert cell["within"] is within and report["within"] == within
    assert cell["latency_ratio"] == pytest.approx(ms / 10.0)
    assert cell["offload_difference"] == pytest.approx((100 - local_passes) / 200)


def test_figures_are_told_as_if_nothing_had_been_stretched() -> None:
    bed = Bed((NEAR,), BASE, 2.0)
    played = {setting: [figures(10.0, 100)] for setting in bed.settings}
    played |= {tree: [figures(20.0 - passes, 200)] for passes, tree in bed.trees.items()}
    report = compared(bed, [seen(figures(10.0, 100))], played)
    assert report["baseline"]["passes"] == 8 and report["baseline"]["ms_per_token"] == 12.0
    (cell,) = report["cells"]
    assert (cell["rtt_ms"], cell["drafters"], cell["jitter"]) == (10.0, 2, 0.0)
    assert cell["testbed"] == cell["simulator"] == cell["simulator_without_code"]
    assert cell["testbed"] == {
        "ms_per_token": 10.0,
        "passes_per_token": 0.5,
        "rounds_per_token": 0.2,
        "between_passes_ms_per_token": pytest.approx(10.0 - 0.2 * 30.0 - 0.5 * 5.0),
        "remote_passes_per_token": 4.0,
        "offload": 0.5,
    }
    assert cell["submitter_ms_per_token"] == 11.0
    assert cell["late_ms_per_pass"] == {"target": 0.2} and cell["cores"] == {"target": 0.1, "machine": 0.5}


def test_what_lies_before_passes_is_made_to_add_up_to_the_time_they_left() -> None:
    found = Code(0.002, 0.001, 0.005).adding_up(figures(10.0, 80, rounds=40), 0.32)
    assert (found.verify, found.draft, found.node) == pytest.approx((0.004, 0.002, 0.005))
    assert NONE.adding_up(figures(10.0, 80), 0.32) == NONE
    assert Code(0.002, 0.001).adding_up(figures(10.0, 80), -0.1) == NONE


def test_the_simulator_is_told_how_long_code_took_in_the_mean_and_plays_without_it_too() -> None:
    bed = Bed((NEAR, FAR), BASE, 2.0)
    observed = [
        seen(figures(12.0, 100), Code(0.001, 0.002, 0.003)),
        seen(figures(12.0, 100), Code(0.003, 0.004, 0.005)),
    ]
    coded = bed.with_code(observed)
    setting = coded.setting(NEAR)
    assert (setting.verify_code, setting.draft_code, setting.node_code) == pytest.approx(
        (0.002, 0.003, 0.004)
    )  # which nobody stretches
    assert (setting.verify, setting.draft) == (0.06, 0.01)
    played = {one: [figures(12.0, 100)] for one in coded.settings} | {one: [figures(9.0, 60)] for one in bed.settings}
    report = compared(bed, observed, played)
    assert report["code_ms_per_pass"] == {"verify": 2.0, "draft": 3.0, "node": 4.0} and report["within"] == 2
    assert report["baseline"]["ms_per_token"] == 12.0
    near, far = report["cells"]
    assert near["code_ms_per_pass"] == {"verify": 1.0, "draft": 2.0, "node": 3.0} != far["code_ms_per_pass"]
    assert (near["simulator"]["ms_per_token"], near["simulator_without_code"]["ms_per_token"]) == (12.0, 9.0)
