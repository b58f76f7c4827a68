from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.reference import Figures, Setting
from wanspec_p2p.simulation.testbed import Code, Observed


@pytest.fixture
def beds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Setting, int]]:
    """What was asked of the testbed; nothing is simulated, and no process is started."""
    asked: list[tuple[Setting, int]] = []

    def figures(setting: Setting, ms: float) -> Figures:
        tokens = setting.tokens * setting.answers
        return Figures(tokens, tokens * (ms / 1000.0 + setting.wan.rtt / 10.0), tokens // 5, tokens, 3 * tokens)

    def observe(setting: Setting, seed: int, progress: Callable[[int], None]) -> Observed:
        asked.append((setting, seed))
        progress(setting.answers)
        found = figures(setting, 12.0)
        return Observed(found, found.seconds, {"target": 0.0003}, Code(0.003, 0.002, 0.001), {"machine": 0.75})

    def played(settings: tuple[Setting, ...], seeds: int, *, first: int, **_: object) -> dict[Setting, list[Figures]]:
        assert seeds == 1 and first == asked_seed[0]
        return {setting: [figures(setting, 10.0)] for setting in settings}

    asked_seed = [0]
    monkeypatch.setattr("wanspec_p2p.cli.testbed_run.observe", observe)
    monkeypatch.setattr("wanspec_p2p.simulation.plays.played", played)
    return asked


def test_all_sixteen_cells_are_shown(run: Run, beds: list[tuple[Setting, int]]) -> None:
    code, out, err = run("testbed")
    assert code == ExitCode.OK and err == ""
    *cells_asked, (tree, _) = beds
    assert (tree.drafters, tree.policy.local.passes) == (0, 1)
    assert [(setting.wan.rtt, setting.drafters, setting.wan.jitter) for setting, _ in cells_asked] == [
        (rtt, drafters, jitter) for rtt in (0.01, 0.03, 0.07, 0.15) for drafters in (1, 2) for jitter in (0.0, 0.2)
    ]
    lines = out.splitlines()
    assert lines[0].startswith(
        "wanspec testbed --rtt 10,30,70,150 --drafters 1,2 --jitter 0,20 --answers 2 --tokens 256 --slow 1 --seed 0, 20"
    )
    assert lines[1] == (
        "tree at the target, 1 pass a round: 10.00 ms and 1.00 draft passes a token in the simulator, "
        "12.00 ms and 1.00 with real processes"
    )
    cells = [line for line in lines if "pp" in line]
    assert len(cells) == 16
    assert cells[0].split() == [
        *(
            "10",
            "1",
            "0%",
            "13.00",
            "(",
            "0%)",
            "11.00",
            "(",
            "0%)",
            "1.18",
            "+0",
            "pp",
            "11.00",
            "(",
            "0%)",
            "75%",
            "apart",
        )
    ]
    assert "apart" not in cells[-1]  # 27 ms against 25
    assert lines[-1] == "4 of 16 cells within 10 % of latency and 10 points of offload"


def test_the_object_for_machines(run: Run, beds: list[tuple[Setting, int]]) -> None:
    code, out, _ = run("testbed", "--rtt", "10", "--drafters", "2", "--jitter", "0", "--slow", "4", "--json")
    assert code == ExitCode.OK and out.count("\n") == 1
    report = json.loads(out)
    assert set(report) == {"version", "date", "command", "code_ms_per_pass", "baseline", "cells", "within"}
    assert report["code_ms_per_pass"] == {"verify": 3.0, "draft": 2.0, "node": 1.0}
    (cell,) = report["cells"]
    assert cell["testbed"]["ms_per_token"] == pytest.approx(12.0 / 4 + 1.0)
    assert report["baseline"]["testbed"]["ms_per_token"] == pytest.approx(12.0 / 4)
    (setting, seed), _ = beds
    assert (setting.verify, setting.draft, setting.wan.rtt, seed) == (0.12, 0.02, 0.04, 0)


def test_a_short_answer_is_warmed_up_shortly(run: Run, beds: list[tuple[Setting, int]]) -> None:
    assert run("testbed", "--tokens", "16", "--rtt", "0")[0] == ExitCode.OK
    assert {(setting.tokens, setting.warm_up) for setting, _ in beds} == {(16, 16)}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--rtt", "x"), "--rtt: 'x' is not a number from 0 to 10000"),
        (("--rtt", "-1"), "--rtt: '-1' is not a number from 0 to 10000"),
        (("--drafters", "9"), "--drafters: '9' is not a number from 1 to 8"),
        (("--drafters", "1.5"), "--drafters: '1.5' is not a whole number from 1 to 8"),
        (("--jitter", "0,101"), "--jitter: '101' is not a number from 0 to 100"),
        (("--slow", "0.5"), "Invalid value for '--slow'"),
        (("--answers", "0"), "Invalid value for '--answers'"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, beds: list[tuple[Setting, int]], arguments: tuple[str, ...], fault: str
) -> None:
    code, out, err = run("testbed", *arguments)
    assert code == ExitCode.USAGE and out == "" and fault in err and err.count("\n") == 1
    assert beds == []


def test_on_windows_it_says_what_it_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    code, _, err = run("testbed")
    assert code == ExitCode.USAGE and err == "wanspec: the testbed needs Linux or macOS\n"
