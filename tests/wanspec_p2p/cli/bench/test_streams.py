from __future__ import annotations

import json

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.bench.bed import Reply
from wanspec_p2p.cli.bench.holdings import Usage
from wanspec_p2p.cli.bench.streams import Outcome, report


def test_what_counts_as_an_honest_refusal() -> None:
    outcome = Outcome(streams=2, bound=3)
    outcome.count(Reply(200, [1, 2], None), [1, 2])
    assert not outcome.failed
    outcome.count(Reply(503, None, "1"), [])
    assert (outcome.answers, outcome.tokens, outcome.refused, outcome.failed) == (1, 2, 1, False)
    for dishonest in (Reply(503, None, None), Reply(503, None, "0"), Reply(500, None, "1")):
        outcome.count(dishonest, [])
    assert outcome.dishonest == 3
    assert outcome.failed


@pytest.mark.parametrize("ids", [[1, 3], [1], None])
def test_an_answer_that_is_wrong_or_does_not_end(ids: list[int] | None) -> None:
    outcome = Outcome(streams=2, bound=3)
    outcome.count(Reply(200, ids, None), [1, 2])
    assert (outcome.wrong, outcome.failed) == (1, True)


def test_more_under_way_than_the_bound_or_a_task_left_is_a_failure() -> None:
    assert Outcome(streams=2, bound=3, most=4).failed
    before, after = {"target": Usage(9, 9, 1)}, {"target": Usage(10, 9, 1)}
    assert Outcome(streams=2, bound=3, before=before, after=after).failed


def test_the_report() -> None:
    outcome = Outcome(streams=2, bound=3, seconds=10.0, tokens=50, health=[0.001] * 98 + [0.06, 0.2])
    outcome.rss_per_hour["target"] = 2.0**20
    outcome.before = outcome.after = {"target": Usage(9, 7, 1)}
    figures = report(outcome)
    assert (figures["health_ms_p50"], figures["health_ms_p99"], figures["health_ms_max"]) == (1.0, 200.0, 200.0)
    assert (figures["health_over_50_ms"], figures["tokens_per_second"]) == (2, 5.0)
    assert (figures["rss_mib_per_hour_target"], figures["tasks_target"]) == (1.0, "9 → 9")


@pytest.mark.system
def test_a_few_streams_at_real_processes(run: Run) -> None:
    code, out, _ = run(*("bench", "streams", "--streams", "3", "--minutes", "0.1", "--verify", "0.05", "--json"))
    figures = json.loads(out)
    assert code == 0, figures
    assert figures["answers"] >= 3
    assert figures["wrong_answers"] == figures["other_refusals"] == 0
