"""What every benchmark needs: prompts, one session run alone, and paired figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wanspec_p2p.clock import SystemClock
from wanspec_p2p.models import prompts
from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.models.prompts import Prompt
from wanspec_p2p.speculation.instructions import Emit
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import Sampling, Segment, SessionId, TokenId

__all__ = ["Prompt", "TimedModel", "alone", "load_prompts", "spread"]

DEFAULT_PROMPTS = Path("tests/data/prompts.jsonl")
SEED = bytes(range(16))


def load_prompts(file: Path | None, count: int | None = None) -> list[Prompt]:
    """Of `file`, or of our own; with `count`, that many spread evenly over it.

    Raises:
        ConfigError: as `prompts.load_prompts`.
    """
    return prompts.load_prompts(file or DEFAULT_PROMPTS, "--prompts", count)


class TimedModel:
    """A model that counts its passes and the seconds spent waiting for them."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.seconds = 0.0
        self.passes = 0

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        begun = time.perf_counter()
        try:
            return await self._model.forward(batch)
        finally:
            self.seconds += time.perf_counter() - begun
            self.passes += 1

    async def release(self, cache: str) -> None:
        await self._model.release(cache)

    async def close(self) -> None:
        await self._model.close()


@dataclass(frozen=True, slots=True)
class Run:
    tokens: list[TokenId]
    seconds: float
    rounds: int


async def alone(
    model: LanguageModel, prompt: Sequence[TokenId], sampling: Sampling, tokens: int, *, stop: bool = False
) -> Run:
    """One answer of the target without any node, through the code that serves requests."""
    info = model.info
    spec = SessionSpec(
        session=SessionId("bench"),
        prompt=tuple(prompt),
        seed=SEED,
        sampling=sampling,
        vocab_size=info.vocab_size,
        max_tokens=tokens,
        stop_tokens=info.eos if stop else (),
    )
    session = TargetSession(spec)
    answer: list[TokenId] = []

    def take(emit: Emit) -> None:
        answer.extend(committed.token for committed in emit.tokens)

    runner = SessionRunner(session, Engine(model, slots=1), None, take, SystemClock())
    begun = time.perf_counter()
    await runner.run()
    return Run(answer, time.perf_counter() - begun, session.stats.rounds)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
