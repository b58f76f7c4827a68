from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.swarm_churn import Churn, Counts
from wanspec_p2p.simulation.swarm_hour import SwarmHour
from wanspec_p2p.simulation.swarm_report import SwarmReport, Waits

REPORT = SwarmReport(
    virtual_seconds=100.0,
    asked=3,
    exact=3,
    faults={},
    answers=Waits(3, 1.0, 2.0, 2.0),
    churn=Counts(came=9, left=2, died=3, silent=1),
    matches=5,
    replaced={"silent": Waits(1, 8.5, 8.5, 8.5)},
    unreplaced=0,
    leases_issued=6,
    leases_ended=2,
    leases_left=4,
    registered=4,
    here=4,
    ghosts=0,
    missing=0,
    tasks_left=0,
    links_left=0,
    pairs_checked=5,
    rtt_error=0.25,
    received={"heartbeat": 300, "ping": 200},
    sent={"ping": 150},
    trace="abc",
)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[SwarmReport], list[tuple[SwarmHour, int]]]:
    """Sets what comes of it; nothing is simulated. Returns what was asked for."""
    asked: list[tuple[SwarmHour, int]] = []

    def comes(report: SwarmReport) -> list[tuple[SwarmHour, int]]:
        def play(hour: SwarmHour, seed: int, *, progress: Callable[[int, int], None]) -> SwarmReport:
            asked.append((hour, seed))
            progress(1, 1)
            return report

        monkeypatch.setattr("wanspec_p2p.simulation.swarm_hour.play_swarm", play)
        return asked

    return comes


def test_a_thousand_nodes_for_an_hour_are_the_default(
    run: Run, played: Callable[[SwarmReport], list[tuple[SwarmHour, int]]]
) -> None:
    asked = played(REPORT)
    code, out, err = run("sim", "swarm", "--json")
    assert (code, err) == (ExitCode.OK, "")
    assert asked == [(SwarmHour(), 0)]
    report = json.loads(out)
    assert report["command"] == (
        "wanspec sim swarm --nodes 1000 --hours 1 --targets 10 --drafters 2 --stay 20 --away 2 --answers 10 --tokens 64"
        " --seed 0"
    )
    assert (report["received_per_second"], report["sent_per_second"]) == (5.0, 1.5)
    assert report["replaced"]["silent"] == {"count": 1, "median": 8.5, "p95": 8.5, "longest": 8.5}
    assert report["wall_seconds"] >= 0.0


def test_people_read_it_line_by_line(run: Run, played: Callable[[SwarmReport], list[tuple[SwarmHour, int]]]) -> None:
    asked = played(REPORT)
    flags = ("--nodes", "7", "--hours", "0.5", "--targets", "2", "--drafters", "3", "--seed", "4")
    code, out, _ = run("sim", "swarm", *flags, "--stay", "5", "--away", "1", "--answers", "2", "--tokens", "9")
    assert code == ExitCode.OK
    assert asked == [
        (SwarmHour(7, 2, 1800.0, 3, Churn(stay=300.0, away=60.0, polite=0.5, silent=0.5), answers=2.0, tokens=9), 4)
    ]
    assert "answers       3 of 3 exact; seconds each: median 1, p95 2, longest 2 (3)" in out
    assert "replaced      seconds after a drafter went silent: median 8.5, p95 8.5, longest 8.5 (1)" in out
    assert "coordinator   5.0 messages a second received, 1.5 sent" in out
    assert "left behind   0 tasks, 0 links" in out


@pytest.mark.parametrize(
    "flaw",
    [{"exact": 2, "faults": {"the target failed": 1}}, {"ghosts": 1}, {"missing": 1}, {"tasks_left": 1}],
    ids=str,
)
def test_a_flaw_is_told_and_fails(
    run: Run, played: Callable[[SwarmReport], list[tuple[SwarmHour, int]]], flaw: dict[str, int | dict[str, int]]
) -> None:
    played(replace(REPORT, rtt_error=None, answers=Waits(0), **flaw))  # type: ignore[arg-type]  # fields of it
    code, out, err = run("sim", "swarm")
    assert code == ExitCode.FAILURE
    assert "left behind" in out and "nothing to compare" in out
    assert err == "wanspec: an answer was not the target's own, or something was left behind: see the report\n"


@pytest.mark.parametrize(("flag", "value"), [("--nodes", "0"), ("--hours", "0"), ("--drafters", "17"), ("--stay", "0")])
def test_what_cannot_be_played_is_refused(run: Run, flag: str, value: str) -> None:
    code, out, err = run("sim", "swarm", flag, value)
    assert code == ExitCode.USAGE and out == ""
    assert flag in err
