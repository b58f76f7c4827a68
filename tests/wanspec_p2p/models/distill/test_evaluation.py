from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.models.base import Rows
from wanspec_p2p.models.distill.evaluation import rank_answers, time_passes
from wanspec_p2p.models.distill.figures import LONGEST, Answer
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Sampling

PROMPT = (3, 1, 4)
SEED = bytes(range(16))


def answer_of(model: ScriptedModel, temperature: float, tokens: int = 40) -> Answer:
    """What the model says as a target."""
    sampler = Sampler(Sampling(temperature=temperature), SEED, model.info.vocab_size, PROMPT)
    said: list[int] = []
    for _ in range(tokens):
        said.append(sampler.choose(model.row([*PROMPT, *said])).token)
        sampler.commit(said[-1:])
    return Answer("k", PROMPT, tuple(said), temperature, SEED)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_drafter_that_is_the_target_is_always_right(temperature: float) -> None:
    answers = [answer_of(ScriptedModel(1), temperature, tokens) for tokens in (40, 1)]
    assert await rank_answers(ScriptedModel(1), answers) == [[1] * 40, [1]]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_ranks_are_those_of_the_drafters_own_law(temperature: float) -> None:
    answer, drafter = answer_of(ScriptedModel(1), temperature), ScriptedModel(1, drift=0.5)
    sampler = Sampler(Sampling(temperature=temperature), SEED, drafter.info.vocab_size, PROMPT)
    expected = []
    for at, token in enumerate(answer.tokens):
        best = list(sampler.rank(drafter.row([*PROMPT, *answer.tokens[:at]]), count=256).tokens)
        expected.append(best.index(token) + 1 if best.index(token) < 4 else 0)
        sampler.commit([token])
    [ranks] = await rank_answers(drafter, [answer])
    assert ranks == expected
    assert len(set(ranks)) >= 4  # neither always right nor always wrong


async def test_the_same_noise_couples_drafter_and_target() -> None:
    answer = answer_of(ScriptedModel(1), 0.8, 200)
    other_noise = Answer(answer.category, answer.prompt, answer.tokens, answer.temperature, bytes(16))
    coupled, apart = await rank_answers(ScriptedModel(1, drift=0.1), [answer, other_noise])
    assert coupled.count(1) > 2 * apart.count(1)


async def test_a_drafter_without_an_opinion_is_never_right() -> None:
    class Silent(ScriptedModel):
        def row(self, prefix: Sequence[int]) -> Rows:
            return 0 * super().row(prefix)

    assert await rank_answers(Silent(1), [answer_of(ScriptedModel(1), 0.0, 5)]) == [[0] * 5]


async def test_answers_are_told_and_caches_let_go() -> None:
    told: list[int] = []
    drafter = ScriptedModel(1)
    await rank_answers(drafter, [answer_of(drafter, 0.0, 3)] * 3, told.append)
    assert told == [1, 2, 3] and drafter.caches == {}


async def test_passes_of_a_drafter_and_of_its_target_are_timed() -> None:
    drafter, target = ScriptedModel(1), ScriptedModel(1)
    costs = await time_passes(drafter, target, [7] * 10)
    assert min(costs.draft, costs.target, costs.verify) > 0
    assert [len(batch[0].tree) for batch in target.batches[1:3]] == [0, LONGEST]
    assert all(batch[0].tree == () for batch in drafter.batches)
