from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.scenario import Scenario
from wanspec_p2p.simulation.scenario_play import Outcome
from wanspec_p2p.speculation.policy import Policy

EXAMPLES = sorted((Path(__file__).parents[3] / "docs/examples").glob("*.toml"))
FIGURES = {
    "ms_per_token",
    "against_alone",
    "against_tree",
    "tokens_per_second",
    "rounds",
    "accepted_per_round",
    "local_passes_per_token",
    "remote_passes_per_token",
    "lost",
}


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Scenario, int]]:
    """What was asked for; nothing is simulated."""
    asked: list[tuple[Scenario, int]] = []

    def play(scenario: Scenario, policy: Policy, seed: int) -> Outcome:
        asked.append((scenario, seed))
        per_token = 0.008 if scenario.ways else 0.030 if not scenario.target.local_drafter else 0.010
        if not scenario.ways and policy.local.passes not in (None, 6):
            per_token = 0.011
        return Outcome(100, 100 * per_token, 100 * per_token, 40, 60, 20, 80 if scenario.ways else 0, 3)

    monkeypatch.setattr("wanspec_p2p.simulation.scenario_play.play", play)
    return asked


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_played(run: Run, tmp_path: Path, file: Path) -> None:
    short = tmp_path / file.name
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("tokens =", "warm_up ="))]
    short.write_text("\n".join(["tokens = 16", "warm_up = 0", *lines]))
    code, out, err = run("sim", "run", str(short), "--seeds", "1", "--json")
    assert (code, err) == (ExitCode.OK, "")
    report = json.loads(out)
    assert 0.1 < report["scenario"]["against_alone"] < 1.1
    assert report["alone"]["against_alone"] == 1.0 and report["tree"]["against_tree"] == 1.0


def test_the_object_for_machines(run: Run, plays: list[tuple[Scenario, int]], tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("seeds = 3\nnodes = 4\n")
    code, out, _ = run("sim", "run", str(file), "--json")
    assert code == ExitCode.OK and out.count("\n") == 1
    report = json.loads(out)
    assert set(report["scenario"]) == set(report["alone"]) == FIGURES
    assert set(report["tree"]) == FIGURES | {"passes"} and report["tree"]["passes"] == 6
    assert (report["scenario"]["against_alone"], report["scenario"]["against_tree"]) == (0.2667, 0.8)
    assert (report["seeds"], report["synthetic"], {seed for _, seed in plays}) == (3, False, {0, 1, 2})
    assert report["command"] == f"wanspec sim run {file} --seeds 3"


def test_the_table_for_people_says_where_delays_come_from(
    run: Run, plays: list[tuple[Scenario, int]], tmp_path: Path
) -> None:
    file = tmp_path / "s.toml"
    observed = "[observed]\nsynthetic = true\nbegun = 2026-11-02T00:00:12Z\nended = 2026-11-03T00:00:12Z\n"
    file.write_text(observed + "[[region]]\nname = 'x'\ndelay_ms = 3\n")
    code, out, err = run("sim", "run", str(file), "--seeds", "1")
    assert (code, err) == (ExitCode.OK, "")
    head, told, columns, *rows = out.splitlines()
    assert head.startswith(f"wanspec sim run {file} --seeds 1, 2")
    assert told == "The delays are synthetic: made up, from 2026-11-02 to 2026-11-03."
    assert "÷ alone" in columns
    assert [row.split("  ")[0] for row in rows] == ["target alone", "tree at the target, 6 passes a round", "scenario"]
    assert rows[2].split()[1:4] == ["8.00", "0.267", "0.800"]


def test_a_mistake_is_one_line_before_anything_is_played(
    run: Run, plays: list[tuple[Scenario, int]], tmp_path: Path
) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[wan]\nrtt_ms = -3\n")
    said = f"wanspec: {file}: wan.rtt_ms: expected a number >= 0.0\n"
    assert run("sim", "run", str(file)) == (ExitCode.USAGE, "", said)
    file.write_text("[observed]\nsynthetic = true\nbegun = 2026-11-02T00:00:12Z\nended = 2026-11-03T00:00:12Z\n")
    said = f"wanspec: {file}: observed: there is no `region` whose delays were observed\n"
    assert run("sim", "run", str(file)) == (ExitCode.USAGE, "", said)
    assert run("sim", "run", str(tmp_path / "gone.toml"))[0] == ExitCode.USAGE
    assert not plays
