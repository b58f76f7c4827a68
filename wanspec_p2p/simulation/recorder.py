"""Let a real pair of models answer prompts, and write down what the drafter would have drafted at every position."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.models.distill import figures
from wanspec_p2p.models.distill.evaluation import rank_positions
from wanspec_p2p.models.timing import median_seconds
from wanspec_p2p.simulation.recording import Answer, Header, RecordedModel, Recording
from wanspec_p2p.speculation.noise import SEED_BYTES
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Sampling, Segment, TokenId

__all__ = ["TIMED_PASSES", "record"]

TARGET_WIDTHS = (1, 4, 8, 16, 32, 64)
DRAFTER_WIDTHS = (1, 4, 8)
TIMED_PASSES = 15


async def record(
    target: LanguageModel,
    drafter: LanguageModel,
    prompts: Sequence[tuple[str, Sequence[TokenId]]],
    *,
    tokens: int,
    temperature: float,
    seed: int,
    machine: str,
    names: tuple[str, str],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Recording:
    """The target's answers to `prompts` and the drafter's thoughts about them.

    Args:
        prompts: (id, token ids); at least one.
        tokens: of an answer at most; it ends before at the target's end-of-sequence token.
        seed: of the draws above temperature 0; each answer has its own.
        machine: in words.
        names: of target and drafter, as the recording shall call them.

    Raises:
        ModelError: the two have different tokenizers.
        ConfigError: a prompt leaves no room for its answer.
        EngineError: a pass failed.
    """
    _check(target, drafter, prompts, tokens)
    answers, said = [], []
    for number, (name, prompt) in enumerate(prompts):
        progress("record", number, len(prompts))
        own_seed = hashlib.blake2b(f"wanspec.record {seed} {number}".encode(), digest_size=SEED_BYTES).digest()
        answer = await _answer(target, prompt, tokens, temperature, own_seed)
        rankings = await rank_positions(drafter, answer)
        candidates = tuple(ranking.tokens for ranking in rankings)
        confidences = tuple(ranking.confidence for ranking in rankings)
        answers.append(Answer(name, answer.tokens, candidates, confidences))
        said.append((*prompt, *answer.tokens))
    progress("record", len(prompts), len(prompts))
    timed = [(target, TARGET_WIDTHS), (drafter, DRAFTER_WIDTHS)]
    of_target, of_drafter = await median_seconds(timed, max(said, key=len), passes=TIMED_PASSES)
    header = Header(
        format="wanspec recording 1",
        target=_facts(names[0], target, TARGET_WIDTHS, of_target),
        drafter=_facts(names[1], drafter, DRAFTER_WIDTHS, of_drafter),
        tokenizer=target.info.tokenizer,
        temperature=temperature,
        seed=seed,
        machine=machine,
        answers=len(answers),
    )
    return Recording(header, tuple(answers))


def _check(
    target: LanguageModel, drafter: LanguageModel, prompts: Sequence[tuple[str, Sequence[TokenId]]], tokens: int
) -> None:
    if target.info.tokenizer != drafter.info.tokenizer:
        raise ModelError(
            f"{target.info.name} and {drafter.info.name} have different tokenizers: the ids of one mean nothing to the "
            "other; name a drafter that was made for this target"
        )
    # Passes are timed behind the longest answer.
    room = max(min(target.info.context, drafter.info.context) - tokens - max(TARGET_WIDTHS), 0)
    for name, prompt in prompts:
        if len(prompt) > room:
            raise ConfigError(
                f"--prompts: {name} has {len(prompt)} tokens, and answers of {tokens} leave room for {room}: "
                "leave it out, or ask for fewer --tokens"
            )


async def _answer(
    target: LanguageModel, prompt: Sequence[TokenId], tokens: int, temperature: float, seed: bytes
) -> figures.Answer:
    """Token by token, by the rule of docs/topics/exactness.md."""
    sampler = Sampler(Sampling(temperature=temperature), seed, target.info.vocab_size, prompt, target.info.eos)
    answer: list[TokenId] = []
    segment = Segment("record", 0, (), tuple(prompt))
    while len(answer) < tokens and not (answer and answer[-1] in target.info.eos):
        ((row,),) = await target.forward([segment])
        answer.append(sampler.choose(row).token)
        sampler.commit(answer[-1:])
        segment = Segment("record", len(prompt) + len(answer) - 1, (), (answer[-1],))
    await target.release("record")
    return figures.Answer("", tuple(prompt), tuple(answer), temperature, seed)


def _facts(name: str, model: LanguageModel, widths: Sequence[int], seconds: Sequence[float]) -> RecordedModel:
    rounded = (float(f"{own:.3g}") for own in seconds)
    return RecordedModel(name, model.info.digest, model.info.engine, tuple(zip(widths, rounded, strict=True)))
