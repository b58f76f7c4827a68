"""How fast the target is alone, what exactness costs and company gains, what our own code takes; compared in pairs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanspec_p2p.cli.bench.measuring import Prompt, TimedModel, alone, spread
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.types import Dtype, Sampling, Segment, TokenId

__all__ = ["Against", "cost_of_exactness", "gain_of_company", "own_time", "target_against_transformers"]

Progress = Callable[[str, int, int], None]

CONTEXT = 300
WIDTHS = (1, 8)
SESSIONS = ("a", "b", "c", "d")
SHARED_WIDTHS = (1, 4, 8)
PASSES = 24


@dataclass(frozen=True, slots=True)
class Against:
    """Tokens per second over whole answers, prefill included, prompt by prompt in turn."""

    ours: list[float]
    theirs: list[float]
    equal_answers: int
    near_ties: int  # answers whose first difference lies at a margin below 1e-4
    first_margins: list[float]  # of the answers that differ

    def as_json(self) -> dict[str, object]:
        return {
            "answers": len(self.ours),
            "target_tokens_per_second": spread(self.ours),
            "transformers_tokens_per_second": spread(self.theirs),
            "ratio": spread([a / b for a, b in zip(self.ours, self.theirs, strict=True)]),
            "equal_answers": self.equal_answers,
            "differing_below_1e-4": self.near_ties,
            "margins_at_first_difference": self.first_margins,
        }


async def target_against_transformers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    directory: Path,
    prompts: Sequence[Prompt],
    *,
    tokens: int,
    dtype: Dtype,
    threads: int,
    progress: Progress,
) -> Against:
    """The target alone, through the code that serves requests, and `generate(do_sample=False)`, one after the other."""
    from wanspec_p2p.models.torch_reference import Reference

    reference = await asyncio.to_thread(Reference, directory, dtype=dtype, threads=threads)
    ours, theirs, margins = [], [], []
    for number, prompt in enumerate(prompts):
        progress("target against transformers", number, len(prompts))
        ids = tokenizer.encode_chat([("user", prompt.text)])
        if number == 0:  # kernels are chosen and memory is found at the first pass
            await alone(model, ids, Sampling(), 4)
            await asyncio.to_thread(reference.generate, ids, 4)
        mine = await alone(model, ids, Sampling(), tokens)
        begun = time.perf_counter()
        their_tokens = await asyncio.to_thread(reference.generate, ids, tokens)
        theirs.append(tokens / (time.perf_counter() - begun))
        ours.append(tokens / mine.seconds)
        at = _first_difference(mine.tokens, their_tokens)
        if at is not None:
            margins.append(await asyncio.to_thread(reference.margin, [*ids, *their_tokens[:at]]))
    return Against(ours, theirs, len(prompts) - len(margins), sum(m < 1e-4 for m in margins), margins)


def _first_difference(a: Sequence[TokenId], b: Sequence[TokenId]) -> int | None:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)


async def cost_of_exactness(exact: LanguageModel, fast: LanguageModel, progress: Progress) -> list[dict[str, object]]:
    """Seconds of our exact pass ÷ our fastest, in turn, at a context of 300: one row, and a tree of eight rows."""
    figures: list[dict[str, object]] = []
    for width in WIDTHS:
        for model in (exact, fast):
            await model.forward([_prefill(model, "bench")])
        pairs = []
        for number in range(PASSES):
            progress(f"cost of exactness, {width} rows", number, PASSES)
            segment = _round("bench", width)
            pairs.append((await _timed(exact, [segment]), await _timed(fast, [segment])))
        pairs = pairs[2:]  # the first passes of a shape choose their kernels
        figures.append(
            {
                "rows": width,
                "exact_ms": spread([1000 * a for a, _ in pairs]),
                "fast_ms": spread([1000 * b for _, b in pairs]),
                "ratio": spread([a / b for a, b in pairs]),
            }
        )
        for model in (exact, fast):
            await model.release("bench")
    return figures


async def gain_of_company(model: LanguageModel, progress: Progress) -> list[dict[str, object]]:
    """Seconds of a pass of four sessions ÷ those of four passes of one, in turn, each at a context of 300."""
    figures: list[dict[str, object]] = []
    for width in SHARED_WIDTHS:
        await model.forward([_prefill(model, session) for session in SESSIONS])
        together = [[_round(session, width) for session in SESSIONS]]
        in_turn = [[segment] for segment in together[0]]
        pairs = []
        for number in range(PASSES):
            progress(f"gain of company, {width} rows each", number, PASSES)
            pairs.append((await _timed(model, *together), await _timed(model, *in_turn)))
        pairs = pairs[2:]
        figures.append(
            {
                "sessions": len(SESSIONS),
                "rows": width,
                "together_ms": spread([1000 * a for a, _ in pairs]),
                "in_turn_ms": spread([1000 * b for _, b in pairs]),
                "ratio": spread([a / b for a, b in pairs]),
            }
        )
        for session in SESSIONS:
            await model.release(session)
    return figures


def _prefill(model: LanguageModel, session: str) -> Segment:
    return Segment(session, 0, (), tuple(i % model.info.vocab_size for i in range(CONTEXT)))


def _round(session: str, width: int) -> Segment:
    """A root and candidates of which every second has a sibling: what a round verifies."""
    parents = tuple(-1 if i < 2 else i - 2 for i in range(width - 1))
    return Segment(session, CONTEXT, (), (7,), tuple(range(10, 10 + width - 1)), parents)


async def _timed(model: LanguageModel, *batches: Sequence[Segment]) -> float:
    begun = time.perf_counter()
    for batch in batches:
        await model.forward(batch)
    return time.perf_counter() - begun


async def own_time(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, tokens: int, progress: Progress
) -> list[dict[str, object]]:
    """What a round takes besides the model: session, sampling, runner; without nodes a round is one position."""
    figures: list[dict[str, object]] = []
    for temperature in (0.0, 0.8):
        timed = TimedModel(model)
        wall, rounds = 0.0, 0
        for number, prompt in enumerate(prompts):
            progress(f"our own time at temperature {temperature:g}", number, len(prompts))
            ids = tokenizer.encode_chat([("user", prompt.text)])
            run = await alone(timed, ids, Sampling(temperature=temperature), tokens)
            wall += run.seconds
            rounds += run.rounds
        figures.append(
            {"temperature": temperature, "rounds": rounds, "ms_per_round": 1000 * (wall - timed.seconds) / rounds}
        )
    return figures
