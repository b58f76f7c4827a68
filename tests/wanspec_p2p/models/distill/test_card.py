from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from wanspec_p2p.models.copying import COPYING_FILE
from wanspec_p2p.models.distill.card import figures_table, write_card
from wanspec_p2p.models.distill.figures import Answer, Costs, Figures, expected_speedup, measure
from wanspec_p2p.models.distill.job import Report
from wanspec_p2p.models.distill.judge import Judgement, Standing
from wanspec_p2p.models.distill.plan import Plan
from wanspec_p2p.models.distill.torch_training import Reading, Schedule

COSTS = Costs(draft=0.002, target=0.010, verify=0.012)


def figures(*ranks: int, category: str = "code") -> Figures:
    other = Answer("prose", (1,), (1,), 0.0, b"")
    return measure([Answer(category, (1,), (1,) * len(ranks), 0.0, b""), other], [ranks, [0]])


def standing(drafter: str, temperature: float, found: Figures) -> Standing:
    return Standing(drafter, temperature, found, *expected_speedup(found, COSTS))


@pytest.fixture
def report() -> Report:
    names = ("trained", "same layers, untrained", "n-gram lookup")
    return Report(
        target="some-model",
        target_digest="d" * 64,
        plan=Plan(layers=(0, 5), tokens=1000, schedule=Schedule(epochs=2.5), seed=11),
        generated=1234,
        brought=0,
        dialogues=56,
        trained=78901,
        curve=(Reading(100, 200, 4000, 3.0, 0.3, 1.0), Reading(200, 200, 8000, 2.0, 0.4, 2.0)),
        judgement=Judgement(
            tuple(standing(name, t, figures(1, 1, 2, 0)) for name in names for t in (0.0, 0.8)),
            dict.fromkeys(names, COSTS),
        ),
        command="wanspec distill some-model --seed 11",
        machine="2 × a CPU",
        drafter="out/layers-0-5/drafter",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drafter").mkdir()
    (tmp_path / "layers.safetensors").write_bytes(b"layers")
    return tmp_path


def card(report: Report, folder: Path) -> str:
    write_card(report, folder, {"model_type": "llama"})
    return (folder / "drafter" / "README.md").read_text(encoding="utf-8")


def test_a_card_says_what_from_what_how_and_with_which_figures(report: Report, folder: Path) -> None:
    text = card(report, folder)
    for said in (
        "# A drafter for some-model",
        "a drafter of 2 layers for some-model, begun from the target's layers 0, 5; the final norm",
        f"some-model (llama), weights {'d' * 64}",
        "`wanspec distill some-model --seed 11`",
        "2.5 epochs, seed 11",
        "1,234 tokens in 56 dialogues",
        "78,901 tokens with every epoch counted",
        hashlib.sha256(b"layers").hexdigest(),
        "that of the target",
        "2.0 ms against the target's 10.0 ms (0.20 of it), and the target's pass over eight rows 12.0 ms",
        "| trained | 0 | 0.50 | 0.00 |",
        "- temperature 0.8: positions 0–15 0.40; depths 1–7: 1.00, 1.00, 0.00,",
    ):
        assert said in text, said
    assert "brought" not in text
    assert "| copying | none: no dialogue held back had anything to copy |" in text


def test_what_it_copies_is_told(report: Report, folder: Path) -> None:
    (folder / "drafter" / COPYING_FILE).write_text('{"lengths": [1, 8], "weights": [0.0645, 0.9]}')
    assert "fitted on dialogues held back: 0.06 from 1, 0.90 from 8 (`drafter/copying.json`) |" in card(report, folder)


def test_other_beginnings_are_told(report: Report, folder: Path) -> None:
    plan = msgspec.structs.replace(report.plan, layers=(3,), width=48, start="/home/me/first/layers-3/drafter")
    text = card(msgspec.structs.replace(report, plan=plan, brought=20), folder)
    assert "a drafter of 1 layer for some-model, begun from the layers of layers-3/drafter, MLPs narrowed to 48" in text
    assert "half of them answers to 20 prompts that were brought" in text
    assert "/home" not in text


def test_the_table_has_a_line_for_each_drafter_and_temperature(report: Report) -> None:
    lines = figures_table(report.judgement.standings).splitlines()
    assert len(lines) == 2 + 6
    assert {line.count("|") for line in lines} == {8}
    beside, length = report.judgement.standings[0].speedup_beside, report.judgement.standings[0].best_length
    assert lines[2] == (
        f"| trained | 0 | 0.400 | 0.400 / 0.200 / 0.000 / 0.000 / 0.400 | 0.67 | {beside:.2f} × ({length}) | 1.39 × |"
    )


def test_the_figure_is_an_image_and_the_same_each_time(report: Report, folder: Path) -> None:
    card(report, folder)
    drawn = (folder / "report.svg").read_bytes()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    card(report, folder)
    assert (folder / "report.svg").read_bytes() == drawn


def test_a_figure_can_do_without_a_curve(report: Report, folder: Path) -> None:
    card(msgspec.structs.replace(report, curve=()), folder)
    assert (folder / "report.svg").stat().st_size > 1000


def test_categories_from_elsewhere_break_neither_table_nor_figure(report: Report, folder: Path) -> None:
    odd = "a|b\n$\\frac{$ <script>"
    standings = tuple(
        standing(s.drafter, s.temperature, figures(1, 2, category=odd)) for s in report.judgement.standings
    )
    text = card(msgspec.structs.replace(report, judgement=Judgement(standings, report.judgement.costs)), folder)
    assert "| α of | temperature | a/b $\\frac{$ <script> | prose |" in text
    ElementTree.fromstring((folder / "report.svg").read_bytes())
