from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.adversity import Adversity
from wanspec_p2p.simulation.reference import Figures, Setting


def bad(drafters: str, *, local: bool, kept: bool) -> dict[str, Any]:
    return {
        "drafters": drafters,
        "local_drafter": local,
        "ms_per_token": 30.5,
        "alone_ms_per_token": 30.0,
        "tree_ms_per_token": 29.5 if local else None,
        "speed_ratio": 0.984,
        "latency_ratio": 1.017,
        "kept": kept,
    }


TABLES: dict[str, Any] = {
    "never_slower": [bad("lying", local=False, kept=True), bad("far", local=True, kept=False)],
    "beside_good": [
        {
            "drafters": "poor",
            "local_drafter": True,
            "ms_per_token": 9.4,
            "good_ms_per_token": 8.28,
            "cost": 0.1353,
            "allowed": 0.05,
            "kept": False,
        }
    ],
    "better_later": [
        {
            "far_rtt_ms": 80.0,
            "near_rtt_ms": 5.0,
            "ms_per_token_by_minute": [16.27, 9.41],
            "near_ms_per_token_by_minute": [8.3, 8.2],
            "cost": 0.1476,
            "allowed": 0.15,
            "kept": True,
        }
    ],
    "churn": [
        {
            "loss_per_round": 0.01,
            "replacement": "dials",
            "local_drafter": False,
            "lost": 9,
            "rounds": 764,
            "ms_per_token": 11.19,
            "steady_ms_per_token": 10.99,
            "cost": 0.018,
            "allowed": 0.15,
            "kept": True,
        }
    ],
    "killed": [
        {
            "played": "one target",
            "answers": 8,
            "complete_and_identical": 8,
            "lost": 6,
            "tokens_per_second": 610.4,
            "unharmed_tokens_per_second": 617.1,
            "kept": True,
        }
    ],
}


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Adversity, int]]:
    """What was asked for; nothing is simulated."""
    asked: list[tuple[Adversity, int]] = []

    def study(adversity: Adversity, seeds: int, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        asked.append((adversity, seeds))
        return TABLES

    monkeypatch.setattr("wanspec_p2p.simulation.adversity.study", study)
    return asked


def test_adversity_says_of_each_line_whether_it_is_kept(run: Run, studies: list[tuple[Adversity, int]]) -> None:
    code, out, err = run("sim", "adversity")
    assert (code, err) == (ExitCode.OK, "") and studies == [(Adversity(256), 4)]
    lines = out.splitlines()
    assert lines[0].startswith("wanspec sim adversity --seeds 4 --tokens 256, 2")
    assert [line for line in lines if "lying" in line][0].split()[-2:] == ["0.984", "kept"]
    assert [line for line in lines if " far " in line][0].split()[-3:] == ["1.017", "NOT", "KEPT"]
    assert [line for line in lines if " poor " in line][0].split() == [
        *("poor", "a", "drafter", "9.40", "8.28", "13.5%", "5%", "NOT", "KEPT")
    ]
    assert [line.split()[-2:] for line in lines if line.startswith(("ms/token", "near ones"))] == [
        ["16.27", "9.41"],
        ["8.30", "8.20"],
    ]
    assert "cost in the last minute 14.8%, allowed 15%: kept" in lines
    assert any("1.8%" in line and "15%" in line for line in lines)
    assert lines[-1] == (
        "one target: 8 of 8 answers whole and identical, 6 nodes lost; 610 tokens/s, 617 with nobody killed: kept"
    )


def test_adversity_for_machines(run: Run, studies: list[tuple[Adversity, int]]) -> None:
    code, out, _ = run("sim", "adversity", "--seeds", "2", "--tokens", "64", "--json")
    assert code == ExitCode.OK and studies == [(Adversity(64), 2)]
    report = json.loads(out)
    assert report | TABLES == report and report["seeds"] == 2
    assert report["command"] == "wanspec sim adversity --seeds 2 --tokens 64"


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    asked: list[Setting] = []

    def play(setting: Setting, seed: int) -> Figures:
        asked.append(setting)
        return Figures(256, 256 * (0.010 + setting.wan.rtt), local_passes=256 * setting.local)

    monkeypatch.setattr("wanspec_p2p.simulation.plays.play", play)
    return asked


def test_the_papers_setting_by_distance(run: Run, plays: list[Setting]) -> None:
    code, out, err = run("sim", "paper", "--seeds", "1", "--rtt", "0,10", "--jobs", "1")
    assert (code, err) == (ExitCode.OK, "") and plays
    lines = out.splitlines()
    assert "WANSpec-style reconstruction" in lines[0]
    rows = [line.split() for line in lines if line.startswith(("     0 ", "    10 "))]
    assert len(rows) == 4 and rows[0][:4] == ["0", "1.00", "1.00", "1.00"] and rows[1][1] == "2.00"
    assert "no worker, its gate alone: best 1.00; offload at <= 1.00 100%, at <= 1.05 100%" in lines
    assert any("over 50 %" in line for line in lines)


def test_the_papers_setting_for_machines_and_as_a_figure(run: Run, plays: list[Setting], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "paper.svg"
    code, out, _ = run("sim", "paper", "--seeds", "1", "--jobs", "1", "--figure", str(file), "--json")
    report = json.loads(out)
    assert code == ExitCode.OK and report["rtt_ms"] == [0, 10, 20, 30, 50, 70, 100]
    assert set(report["laws"]) == {"iid", "calibrated"}
    assert b"WANSpec-style reconstruction" in file.read_bytes() and file.with_suffix(".png").exists()


def test_a_wrong_value_is_named_before_anything_is_played(run: Run, plays: list[Setting], tmp_path: Path) -> None:
    for arguments, said in (
        (("--rtt", "-1"), "--rtt: '-1' is not a number from 0 to 10000"),
        (("--figure", "paper.png"), "must end in .svg"),
        (("--figure", str(tmp_path / "gone" / "paper.svg")), "is no folder that can be written to"),
    ):
        code, out, err = run("sim", "paper", *arguments)
        assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1) and said in err
    assert not plays
