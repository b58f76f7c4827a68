from __future__ import annotations

import json

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.bench.holdings import Usage
from wanspec_p2p.cli.bench.soak import Outcome, report


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(ghosts=1),
        Outcome(wrong=1),
        Outcome(before={"coordinator": Usage(9, 9, 1)}, after={"coordinator": Usage(9, 10, 1)}),
    ],
    ids=["ghost", "wrong", "file"],
)
def test_whatever_stays_behind_is_a_failure(outcome: Outcome) -> None:
    assert outcome.failed


def test_the_report() -> None:
    usage = {"coordinator": Usage(9, 9, 1)}
    outcome = Outcome(seconds=1.26, joined=3, killed=1, stopped=2, before=usage, after=usage)
    assert not outcome.failed
    figures = report(outcome)
    assert (figures["seconds"], figures["nodes_joined"], figures["files_coordinator"]) == (1.3, 3, "9 → 9")


@pytest.mark.system
def test_a_few_nodes_at_real_processes(run: Run) -> None:
    code, out, _ = run(*("bench", "soak", "--minutes", "0.1", "--nodes", "1", "--json"))
    figures = json.loads(out)
    assert code == 0, figures
    assert figures["nodes_joined"] >= 1
    assert figures["ghosts"] == 0
