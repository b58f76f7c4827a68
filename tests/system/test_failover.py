"""Any one process killed or stopped in mid-answer: the same text in one stream, and nothing is left of it all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.failover import TARGETS, strike_all
from wanspec_p2p.cli.bench.failover_outcome import Victim
from wanspec_p2p.cli.bench.measuring import load_prompts
from wanspec_p2p.cli.processes import Fleet
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.clock import SystemClock

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.timeout(600), pytest.mark.usefixtures("no_orphans")]

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"
POINTS = int(os.environ.get("WANSPEC_TEST_FAILOVER_POINTS", "1"))
SEED = 1


async def test_any_process_may_die_or_hang_in_mid_answer(
    tmp_path: Path, environment: dict[str, str], model_cache: Path
) -> None:
    async with (
        Fleet(tmp_path, environment) as fleet,
        Cluster.running(
            *(fleet, tmp_path, environment),
            cache=model_cache,
            model="smollm2-135m",
            drafter="ngram:smollm2-135m",
            targets=TARGETS,
        ) as cluster,
        AsyncClient(cluster.url) as client,
    ):
        outcomes = await strike_all(
            cluster,
            client,
            load_prompts(PROMPTS, 1),
            victims=tuple(Victim),
            points=POINTS,
            tokens=24,
            model="smollm2-135m",
            seed=SEED,
            clock=SystemClock(),
            progress=lambda what, done, total: None,
        )
    assert [(o.victim, o.signal) for o in outcomes] == [(v, s) for v in Victim for s in ("SIGSTOP", "SIGKILL")]
    for outcome in outcomes:
        assert (outcome.points, outcome.different) == (POINTS, 0)
    assert sum(len(outcome.back) for outcome in outcomes) == POINTS, "everybody was registered again"
