"""Ask a drafter, through the engine that serves it, what it would have drafted at every position of an answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.models.distill.figures import LONGEST, RANKS, Answer, Costs
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Sampling, Segment

__all__ = ["rank_answers", "time_passes"]

TIMED_PREFIX = 256
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
        name = f"evaluate-{done}"
        chain = answer.tokens[:-1]
        segment = Segment(name, 0, (), answer.prompt, chain, tuple(range(-1, len(chain) - 1)))
        (rows,) = await drafter.forward([segment])
        await drafter.release(name)
        sampler = Sampler(Sampling(temperature=answer.temperature), answer.seed, drafter.info.vocab_size, answer.prompt)
        ranks = []
        for row, token in zip(rows, answer.tokens, strict=True):
            candidates = sampler.rank(row, count=RANKS).tokens
            ranks.append(candidates.index(token) + 1 if token in candidates else 0)
            sampler.commit([token])
        found.append(ranks)
        tell(done)
    return found


async def time_passes(drafter: LanguageModel, target: LanguageModel, prefix: Sequence[int]) -> Costs:
    """Medians of passes after `prefix`, the two models in turn, so that a busy machine is busy for both.

    Args:
        prefix: at least one token; its first TIMED_PREFIX are taken.
    """
    tokens = tuple(prefix[:TIMED_PREFIX])
    chain = (tokens * (LONGEST + 1))[:LONGEST]
    below = tuple(range(-1, LONGEST - 1))

    async def timed(model: LanguageModel, tree: tuple[int, ...], parents: tuple[int, ...]) -> float:
        begun = time.perf_counter()
        await model.forward([Segment("time", len(tokens) - 1, (), tokens[-1:], tree, parents)])
        return time.perf_counter() - begun

    for model in (drafter, target):
        await model.forward([Segment("time", 0, (), tokens)])
    seconds: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(TIMED_PASSES):
        seconds[0].append(await timed(drafter, (), ()))
        seconds[1].append(await timed(target, (), ()))
        seconds[2].append(await timed(target, chain, below))
    for model in (drafter, target):
        await model.release("time")
    return Costs(*(statistics.median(own) for own in seconds))
