from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.scenario import Scenario
from wanspec_p2p.simulation.scenario_play import Outcome
from wanspec_p2p.simulation.testbed_scene import Seen
from wanspec_p2p.speculation.policy import Policy

Observe = Callable[[Scenario, float, int], Seen]


def outcome(scenario: Scenario, slow: float) -> Outcome:
    seconds = scenario.tokens * slow * (0.03 if scenario.ways else 0.02)
    local = scenario.tokens if scenario.target.local_drafter else 0
    return Outcome(scenario.tokens, seconds, seconds, scenario.tokens, local_passes=local, lost=len(scenario.ways))


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Scenario, float, int]]:
    """What was asked of the testbed; nothing is simulated, and no process is started."""
    asked: list[tuple[Scenario, float, int]] = []

    def observe(scenario: Scenario, slow: float, seed: int) -> Seen:
        asked.append((scenario, slow, seed))
        return Seen(outcome(scenario, slow), scenario.adversaries.silent == 0, 0.0003, 0.5)

    def play(scenario: Scenario, policy: Policy, seed: int, slow: float) -> Outcome:
        assert scenario.target.pass_ms == 30.0 * slow  # the simulator plays what is stretched
        return outcome(scenario, slow)

    monkeypatch.setattr("wanspec_p2p.cli.testbed_scenario.observe", observe)
    monkeypatch.setattr("wanspec_p2p.simulation.scenario_play.play", play)
    return asked


def test_each_condition_is_played_right_after_its_baseline(
    run: Run, observed: list[tuple[Scenario, float, int]]
) -> None:
    code, out, err = run("testbed", "--adversity", "lying,honest", "--tokens", "32", "--slow", "3", "--seed", "5")
    assert code == ExitCode.OK and err == ""
    assert [len(scenario.ways) for scenario, _, _ in observed] == [0, 2] * 4
    assert {(scenario.tokens, slow, seed) for scenario, slow, seed in observed} == {(32, 3.0, 5)}
    lines = out.splitlines()
    assert lines[0].startswith("wanspec testbed --adversity lying,honest --tokens 32 --slow 3 --seed 5, 20")
    assert lines[2].split() == [
        *("lying", "/", "alone", "none", "30.00", "(", "1.500)", "30.00", "(", "1.500)", "≤", "1.031", "NO"),
        *("–", "–", "2", "2", "0.30", "50%", "identical"),
    ]
    assert lines[3].split()[-7:] == ["0%", "0%", "2", "2", "0.30", "50%", "identical"]
    assert lines[-1] == "4 of 4: every answer the target's own, token for token"


def test_all_of_them_and_the_object_for_machines(run: Run, observed: list[tuple[Scenario, float, int]]) -> None:
    code, out, err = run("testbed", "--adversity", "all", "--json")
    assert code == ExitCode.NOT_IDENTICAL and err == "" and out.count("\n") == 1
    report = json.loads(out)
    assert set(report) == {"version", "date", "command", "conditions", "identical"}
    assert len(report["conditions"]) == 21 and len(observed) == 42
    assert [line["condition"] for line in report["conditions"] if not line["identical"]] == ["silent", "silent"]


def test_a_text_that_is_not_the_targets_is_said_and_the_exit_code(
    run: Run, observed: list[tuple[Scenario, float, int]]
) -> None:
    code, out, _ = run("testbed", "--adversity", "silent")
    assert code == ExitCode.NOT_IDENTICAL
    assert out.count("NOT IDENTICAL") == 2 and "0 of 2: every answer" in out


def test_a_scenario_file(run: Run, observed: list[tuple[Scenario, float, int]], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("tokens = 40\nnodes = 3\n[adversaries]\nlying = 1\n[churn]\nloss_per_round = 0.1\n")
    code, out, err = run("testbed", "--scenario", str(file), "--slow", "2", "--json")
    assert code == ExitCode.OK and err == ""
    (line,) = json.loads(out)["conditions"]
    assert (line["condition"], line["against"], line["slow"]) == ("mine", "alone", 2.0)
    (alone, _, _), (scenario, _, _) = observed
    assert alone.ways == [] and scenario.adversaries.lying == 1 and scenario.churn.loss_per_round == 0.1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ("--adversity", "lying,x"),
            "--adversity: 'x' is none of all, lying, silent, far, flapping, stalling, poor, slow, honest",
        ),
        (("--adversity", "far, far"), "--adversity: 'far' is named twice"),
        (("--adversity", "all", "--rtt", "10"), "--rtt does not go with --adversity"),
        (("--adversity", "all", "--answers", "2"), "--answers does not go with --adversity"),
        (("--scenario", "FILE", "--tokens", "10"), "--tokens does not go with --scenario"),
        (("--scenario", "FILE", "--adversity", "all"), "--adversity does not go with --scenario"),
        (("--scenario", "FILE"), "mine.toml: bandwidth: the testbed's relay has no limit"),
        (("--scenario", "NOWHERE"), "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run,
    observed: list[tuple[Scenario, float, int]],
    tmp_path: Path,
    arguments: tuple[str, ...],
    fault: str,
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[wan]\nbandwidth = 1e6\n")
    code, out, err = run("testbed", *(str(file) if word == "FILE" else word for word in arguments))
    assert code == ExitCode.USAGE and out == "" and fault in err and err.count("\n") == 1
    assert observed == []
