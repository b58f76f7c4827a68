"""How long passes of real models take, by how many rows they have."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.types import Segment

__all__ = ["TIMED_PREFIX", "median_seconds"]

TIMED_PREFIX = 256


async def median_seconds(
    models: Sequence[tuple[LanguageModel, Sequence[int]]], prefix: Sequence[int], *, passes: int
) -> list[list[float]]:
    """Medians of passes after `prefix`, all models and widths in turn, so that a busy machine is busy for each.

    Args:
        models: each with the rows that its passes shall have: one token, and a chain of nodes below it.
        prefix: at least one token; its first TIMED_PREFIX are taken.
        passes: of each width.

    Returns:
        Seconds for each width of each model.
    """
    tokens = tuple(prefix[:TIMED_PREFIX])
    for model, _ in models:
        await model.forward([Segment("time", 0, (), tokens)])
    seconds: list[list[list[float]]] = [[[] for _ in widths] for _, widths in models]
    for _ in range(passes):
        for (model, widths), own in zip(models, seconds, strict=True):
            for rows, found in zip(widths, own, strict=True):
                found.append(await _timed(model, tokens, rows - 1))
    for model, _ in models:
        await model.release("time")
    return [[statistics.median(found) for found in own] for own in seconds]


async def _timed(model: LanguageModel, tokens: tuple[int, ...], nodes: int) -> float:
    chain = (tokens * (nodes // len(tokens) + 1))[:nodes]
    segment = Segment("time", len(tokens) - 1, (), tokens[-1:], chain, tuple(range(-1, nodes - 1)))
    begun = time.perf_counter()
    await model.forward([segment])
    return time.perf_counter() - begun
