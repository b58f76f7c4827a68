"""Drafting without a target: the coordinator's probes, and how fast this node is. Both run like any other session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from node.drafting import DraftingEngine
from wanspec_p2p.clock import Clock
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.coordinator_to_node import ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import ProbeResult
from wanspec_p2p.speculation.events import Drafted, DrafterEvent, ModelFree, Started
from wanspec_p2p.speculation.instructions import DrafterInstruction, Release, RequestModel, RunPass, SendDraft
from wanspec_p2p.types import Segment, TokenId

__all__ = ["GreedySession", "answer_probe", "tokens_per_second"]

BENCHMARK_PASSES = 16
BENCHMARK_SECONDS = 2.0
BENCHMARK_PREFIX = 32
MAX_SPEED = 1e9


class GreedySession:
    """The most likely token, `count` times, as a session of the drafting engine; fewer where it has no opinion."""

    def __init__(self, cache: str, prefix: Sequence[TokenId], count: int, vocab_size: int) -> None:
        self.tokens: list[TokenId] = []
        self._cache, self._prefix, self._count, self._vocab_size = cache, tuple(prefix), count, vocab_size

    def handle(self, event: DrafterEvent) -> list[DrafterInstruction]:
        match event:
            case Started():
                return [RequestModel()]
            case ModelFree() if not self.tokens:
                return [RunPass(Segment(self._cache, 0, (), self._prefix))]
            case ModelFree():
                length = len(self._prefix) + len(self.tokens) - 1
                return [RunPass(Segment(self._cache, length, (), (self.tokens[-1],)))]
            case Drafted(rows):
                row = rows[-1]
                if float(row.max()) == float(row.min()):
                    return [Release()]
                self.tokens.append(int(np.argmax(row[: self._vocab_size])))
                return [RequestModel()] if len(self.tokens) < self._count else [Release()]
            case _:
                return [Release()]


class _Silent:
    """A probe says nothing while it runs."""

    def draft(self, draft: SendDraft) -> None:
        pass

    def decline(self, reason: str) -> None:
        pass


async def answer_probe(engine: DraftingEngine, request: ProbeRequest, clock: Clock) -> ProbeResult:
    """What this node's model drafts greedily; no tokens where it cannot (another model, too long, foreign ids)."""
    info = engine.model.info
    begun = clock.monotonic()
    cache = engine.cache_name()
    session = GreedySession(cache, request.prefix, request.count, info.vocab_size)
    fits = len(request.prefix) + request.count <= info.context and max(request.prefix) < info.vocab_size
    if fits and request.model == info.name:
        seat = engine.seat(session, cache, _Silent())
        try:
            await seat.ended.wait()
        finally:
            seat.close()
    return ProbeResult(probe=request.probe, tokens=tuple(session.tokens), seconds=clock.monotonic() - begun)


async def tokens_per_second(model: LanguageModel, clock: Clock) -> float:
    """Tokens a second of one session drafting alone, from a few passes after a short prefix.

    Raises:
        EngineError: the model cannot even do that.
    """
    info = model.info
    prefix = tuple(i % info.vocab_size for i in range(min(BENCHMARK_PREFIX, info.context)))
    room = min(BENCHMARK_PASSES, info.context - len(prefix))
    passes = 0
    try:
        # The first pass is the prefill, and where kernels are chosen and memory is found: not what drafting costs.
        await model.forward([Segment("benchmark", 0, (), prefix)])
        begun = clock.monotonic()
        while passes < room and clock.monotonic() - begun < BENCHMARK_SECONDS:
            await model.forward([Segment("benchmark", len(prefix) + passes, (), (0,))])
            passes += 1
        seconds = clock.monotonic() - begun
    finally:
        await model.release("benchmark")
    return min(passes / seconds, MAX_SPEED) if seconds > 0 else 0.0
