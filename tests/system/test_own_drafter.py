"""A target with a drafter of its own says what it says without one, to one client and to several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.measuring import Prompt, load_prompts
from wanspec_p2p.cli.processes import Fleet
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.client.answers import Answer

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.timeout(300), pytest.mark.usefixtures("no_orphans")]

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"
MODEL, DRAFTER = "smollm2-135m", "smollm2-draft"
TOKENS = 12


async def answered(
    directory: Path, environment: dict[str, str], cache: Path, prompts: Sequence[Prompt], *, own: bool
) -> list[Answer]:
    """Each prompt greedily and not, one after the other, and then all of them at once."""
    await asyncio.to_thread(directory.mkdir)
    async with (
        Fleet(directory, environment) as fleet,
        Cluster.running(
            *(fleet, directory, environment),
            cache=cache,
            model=MODEL,
            drafter=DRAFTER,
            local_drafter=DRAFTER if own else None,
        ) as cluster,
        AsyncClient(cluster.url) as client,
    ):
        asked = [(prompt, temperature) for temperature in (0.0, 0.8) for prompt in prompts]

        async def ask(prompt: Prompt, temperature: float) -> Answer:
            return await client.generate(
                prompt.text, model=MODEL, max_tokens=TOKENS, temperature=temperature, seed=3, ignore_eos=True
            )

        one_by_one = [await ask(*question) for question in asked]
        return [*one_by_one, *await asyncio.gather(*(ask(*question) for question in asked))]


async def test_a_targets_own_drafter_changes_no_token_and_is_run_for_several_answers_together(
    tmp_path: Path, environment: dict[str, str], model_cache: Path
) -> None:
    prompts = load_prompts(PROMPTS, 2)
    without, with_own = [
        await answered(tmp_path / str(own), environment, model_cache, prompts, own=own) for own in (False, True)
    ]
    assert [answer.token_ids for answer in with_own] == [answer.token_ids for answer in without]
    assert {len(answer.token_ids) for answer in with_own} == {TOKENS}
    assert sum(answer.speculation.target_draft_passes for answer in with_own) > 0
    assert sum(answer.speculation.accepted for answer in with_own) > 0
    assert sum(answer.speculation.target_draft_passes for answer in without) == 0
