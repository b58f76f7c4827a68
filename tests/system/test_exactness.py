"""The target's text, whatever the nodes do: a real model, real processes, real sockets, real kills."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.exactness import CONDITIONS, Condition, compare
from wanspec_p2p.cli.bench.measuring import Prompt, load_prompts
from wanspec_p2p.cli.processes import Fleet
from wanspec_p2p.client import AsyncClient

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.timeout(600), pytest.mark.usefixtures("no_orphans")]

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"
MODEL, DRAFTER = "smollm2-135m", "smollm2-draft"
QUICK_DRAFTER = "ngram:smollm2-135m"
"""Starts at once, and is right where a text repeats itself."""


def prompts_of(*ids: str) -> list[Prompt]:
    by_id = {prompt.id: prompt for prompt in load_prompts(PROMPTS)}
    return [by_id[number] for number in ids]


@asynccontextmanager
async def running(
    directory: Path, environment: dict[str, str], cache: Path, drafter: str = DRAFTER
) -> AsyncIterator[tuple[Cluster, AsyncClient]]:
    async with (
        Fleet(directory, environment) as fleet,
        Cluster.running(fleet, directory, environment, cache=cache, model=MODEL, drafter=drafter) as cluster,
        AsyncClient(cluster.url) as client,
    ):
        yield cluster, client


async def test_every_condition_gives_the_tokens_of_the_target_alone(
    tmp_path: Path, environment: dict[str, str], model_cache: Path
) -> None:
    prompts = prompts_of("14", "7")  # one that is copied from its prompt and ends, and one that goes on
    async with running(tmp_path, environment, model_cache) as (cluster, client):
        outcomes = await compare(
            cluster,
            client,
            prompts,
            tokens=12,
            temperatures=(0.0, 0.8),
            conditions=tuple(CONDITIONS),
            model=MODEL,
            progress=lambda what, done, total: None,
        )
    assert {(o.condition, o.temperature) for o in outcomes} == {(c, t) for c in Condition for t in (0.0, 0.8)}
    for outcome in outcomes:
        assert outcome.differences == []
        assert outcome.answers == 2
        assert outcome.tokens > outcome.answers  # every answer is more than its end
        assert outcome.target_draft_passes == 0
    accepted = {c: sum(o.accepted for o in outcomes if o.condition is c) for c in Condition}
    assert all(CONDITIONS[c] for c in Condition if accepted[c])
    # An idle network proves nothing: some drafts must have counted. Whose is a matter of time, on two busy cores.
    assert sum(accepted.values()) > 0


async def test_nor_does_a_drafter_at_the_target_beside_such_nodes_change_a_token(
    tmp_path: Path, environment: dict[str, str], model_cache: Path
) -> None:
    conditions = (Condition.KILLED, Condition.LIAR)
    prompts = prompts_of("14")  # it repeats its prompt: nodes draft that one, too
    async with running(tmp_path, environment, model_cache, QUICK_DRAFTER) as (cluster, client):
        outcomes = await compare(
            cluster,
            client,
            prompts,
            tokens=16,
            temperatures=(0.0, 0.8),
            conditions=conditions,
            model=MODEL,
            progress=lambda what, done, total: None,
            local_drafter=DRAFTER,
        )
    assert [(o.condition, o.temperature) for o in outcomes] == [(c, t) for c in conditions for t in (0.0, 0.8)]
    for outcome in outcomes:
        assert (outcome.differences, outcome.answers, outcome.local_drafter) == ([], 1, DRAFTER)
        assert outcome.tokens > outcome.answers
    # Both draft: one alone would prove nothing of the two together. How often the target does is a matter of time.
    assert sum(o.target_draft_passes for o in outcomes) > 0
    assert sum(o.won_by_nodes for o in outcomes) > 0
