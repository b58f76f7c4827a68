from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wanspec_p2p.cli.main import app
from wanspec_p2p.simulation.capacity_play import Hardware

SMALL = ["sim", "capacity", "--limit", "31", "--rtt", "0", "--drafters", "1", "--passes", "1", "--tokens", "8"]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody plays: what is found is always the same."""

    def study(*_: object, **__: object) -> dict[str, object]:
        against = {"passes": 1, "clients": 40, "closed_form": 1.167, "ratio": {"r1": [1.5]}}
        return {
            "rtt_ms": [0.0],
            "clients": {"r1": [60]},
            "plain": 50,
            "against": {"chain": against, "tree": {**against, "clients": 0, "ratio": {"r1": [None]}}},
            "baselines": {"chain": {"1": 40}, "tree": {"1": 0}},
            "closed_form": {"1": 1.167},
            "gate": {"clients": 45, "remote": {"r1": [66]}},
            "held": {"5": {"chain": 10, "clients": {"r1": [18]}, "ratio": {"r1": [1.8]}, "closed_form": 1.833}},
        }

    monkeypatch.setattr("wanspec_p2p.simulation.capacity.study", study)


@pytest.mark.usefixtures("report")
def test_the_report_says_how_to_repeat_it() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["command"] == (
        "wanspec sim capacity --limit 31 --verify 30 --draft 5 --draft-rows 64 --share 8"
        " --rtt 0 --drafters 1 --passes 1 --tokens 8 --seed 0"
    )
    assert (found["draft_rows"], found["share"]) == (64, 8)
    assert (found["limit_ms"], found["plain"], found["clients"]) == (31.0, 50, {"r1": [60]})


@pytest.mark.usefixtures("report")
def test_people_see_a_table_and_a_dash_where_there_is_nothing_to_compare_with() -> None:
    result = CliRunner().invoke(app, SMALL)
    assert "chain at the target: 40 (1 pass: 40); closed form × 1.17" in result.output
    assert "goes by its gate: 45" in result.output
    assert any(line.split()[:3] == ["r1", "0", "60"] and line.endswith(" 66") for line in result.output.splitlines())
    assert "1.50 ×" in result.output and "–" in result.output
    assert "flat up to 64 rows; 8 sessions share a node" in result.output
    assert "held to 5 drafted tokens a round (mean): chain 10; closed form × 1.83" in result.output
    assert "1.80 ×" in result.output


def test_what_the_flags_say_is_what_is_studied(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Hardware, object]] = []

    def study(hardware: Hardware, **flags: object) -> dict[str, object]:
        asked.append((hardware, flags["held"]))
        return {}

    monkeypatch.setattr("wanspec_p2p.simulation.capacity.study", study)
    flags = ["--verify", "50", "--draft", "10", "--draft-rows", "8", "--share", "2", "--held", "5,1", "--json"]
    result = CliRunner().invoke(app, ["sim", "capacity", *flags])
    assert result.exit_code == 0, result.output
    assert asked == [(Hardware(0.050, 0.010, 8, 2), (5, 1))]
    assert "--draft-rows 8 --share 2" in result.stdout and "--held 5,1" in result.stdout


@pytest.mark.usefixtures("report")
def test_the_figure_is_drawn_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, [*SMALL, "--figure", str(tmp_path / "clients.svg")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("clients.*")) == ["clients.png", "clients.svg"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rtt", "-1"], "--rtt: '-1' is not a number"),
        (["--held", "0"], "--held: '0' is not a number"),
        (["--passes", "1.5"], "--passes: '1.5' is not a whole number"),
        (["--figure", "clients.gif"], "must end in .svg"),
    ],
)
def test_what_cannot_be_is_one_clear_line(flags: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["sim", "capacity", *flags])
    assert result.exit_code != 0
    assert says in (result.output + str(result.exception))
