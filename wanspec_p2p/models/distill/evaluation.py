"""Ask a drafter, through the engine that serves it, what it would have drafted at every position of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.models.distill.figures import LONGEST, RANKS, Answer, Costs
from wanspec_p2p.models.timing import median_seconds
from wanspec_p2p.speculation.sampling import Ranking, Sampler
from wanspec_p2p.types import Sampling, Segment

__all__ = ["rank_answers", "rank_positions", "time_passes"]

TIMED_PASSES = 15


async def rank_answers(
    drafter: LanguageModel, answers: Sequence[Answer], tell: Callable[[int], None] = lambda done: None
) -> list[list[int]]:
    """The rank a drafter gives to each token of each answer, by the rule of docs/topics/exactness.md.

    Returns:
        For every answer a list of its length: 1 is the drafter's first candidate, 0 none of the first RANKS.
    """
    found = []
    for done, answer in enumerate(answers, 1):
        rankings = await rank_positions(drafter, answer)
        candidates = [ranking.tokens for ranking in rankings]
        found.append([own.index(t) + 1 if t in own else 0 for t, own in zip(answer.tokens, candidates, strict=True)])
        tell(done)
    return found


async def rank_positions(drafter: LanguageModel, answer: Answer) -> list[Ranking]:
    """The drafter's RANKS candidates at every position of an answer, given all before it; in one pass."""
    chain = answer.tokens[:-1]
    segment = Segment("evaluate", 0, (), answer.prompt, chain, tuple(range(-1, len(chain) - 1)))
    (rows,) = await drafter.forward([segment])
    await drafter.release("evaluate")
    sampler = Sampler(Sampling(temperature=answer.temperature), answer.seed, drafter.info.vocab_size, answer.prompt)
    rankings = []
    for row, token in zip(rows, answer.tokens, strict=True):
        rankings.append(sampler.rank(row, count=RANKS))
        sampler.commit([token])
    return rankings


async def time_passes(drafter: LanguageModel, target: LanguageModel, prefix: Sequence[int]) -> Costs:
    """Medians of passes after `prefix`, the two models in turn.

    Args:
        prefix: at least one token.
    """
    (draft,), (own, verify) = await median_seconds(
        [(drafter, (1,)), (target, (1, LONGEST + 1))], prefix, passes=TIMED_PASSES
    )
    return Costs(draft, own, verify)
