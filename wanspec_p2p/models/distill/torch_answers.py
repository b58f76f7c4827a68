"""The prompts that drafters are judged on, and the target's own answers to them, many at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.directories import read_config
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.figures import Answer
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.models.distill.job import Job
from wanspec_p2p.models.distill.torch_corpus import context_of
from wanspec_p2p.models.distill.torch_decoder import BatchDecoder, read_batched
from wanspec_p2p.models.distill.torch_training import held_back
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.pull import Progress
from wanspec_p2p.models.torch_loading import eos_tokens
from wanspec_p2p.models.torch_tokenizer import TorchTokenizer
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Sampling, TokenId

__all__ = ["ask_target", "brought_prompts", "held_back_prompts", "write_answers"]

ROWS = 48
ANSWER_TOKENS = 96
HELD_BACK_PROMPTS = 96
TEMPERATURES = (0.0, 0.8)


def brought_prompts(job: Job) -> list[tuple[str, list[TokenId]]]:
    """(category, token ids) of the unseen prompts that the operator brought.

    Raises:
        ConfigError: one leaves no room for an answer, or is among those to train on.
    """
    if both := {text for _, text in job.unseen} & set(job.prompts):
        raise ConfigError(f"--unseen: {len(both)} of its prompts are in --prompts as well: leave them out of one")
    tokenizer = TorchTokenizer(job.source.directory)
    prompts = [(category, tokenizer.encode_chat([("user", text)])) for category, text in job.unseen]
    room = _room(job)
    longest = max((len(prompt) for _, prompt in prompts), default=0)
    if longest > room:
        raise ConfigError(f"--unseen: a prompt has {longest} tokens, the target has room for {room}: leave it out")
    return prompts


def held_back_prompts(job: Job, dialogues: Sequence[Dialogue]) -> list[tuple[str, list[TokenId]]]:
    """(kind, token ids) of dialogues that are not trained on, up to where the target answers.

    A prompt that was brought is answered many times: it is left out where another of its dialogues is trained on.

    Raises:
        ConfigError: there are too few dialogues.
    """
    kept = held_back(len(dialogues))
    trained = {_asked(dialogue).tobytes() for i, dialogue in enumerate(dialogues) if i not in kept}
    room = _room(job)
    prompts: list[tuple[str, list[TokenId]]] = []
    for dialogue in (dialogues[i] for i in kept):
        asked = _asked(dialogue)
        if len(asked) < len(dialogue.ids) and len(asked) <= room and asked.tobytes() not in trained:
            prompts.append((dialogue.kind, asked.tolist()))
    if not prompts:
        raise ConfigError(
            f"none of {len(dialogues)} dialogues could be held back to judge on: ask for more --tokens, or bring "
            "prompts with --unseen"
        )
    return prompts[:HELD_BACK_PROMPTS]


def _asked(dialogue: Dialogue) -> NDArray[np.int32]:
    """Up to where the target answers."""
    answered = np.flatnonzero(dialogue.origins == Origin.ANSWER)
    return dialogue.ids[: answered[0]] if len(answered) else dialogue.ids


def _room(job: Job) -> int:
    return context_of(read_config(job.source.directory)) - ANSWER_TOKENS


def ask_target(job: Job, prompts: Sequence[tuple[str, Sequence[TokenId]]], progress: Progress) -> list[Answer]:
    """The target's answers at each of TEMPERATURES, written once and kept under `job.out`.

    Raises:
        ConfigError: the kept ones are damaged, or the disk is full.
    """
    asked = hashlib.sha256(msgspec.json.encode([job.source.digest, prompts])).hexdigest()
    path = job.out / f"answers-{asked[:12]}.json"
    if path.is_file():
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[Answer])
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path} is damaged ({error}): delete it, then repeat") from error
    model = read_batched(job.source.directory, job.placement)
    vocab_size = min(tokenizer_facts(job.source.directory).vocab_size, int(model.config.vocab_size))
    eos = frozenset(eos_tokens(model))
    answers: list[Answer] = []
    for temperature in TEMPERATURES:
        label = f"answers at temperature {temperature:g}"
        progress(label, 0, len(prompts))
        answers += write_answers(
            model,
            prompts,
            tokens=ANSWER_TOKENS,
            temperature=temperature,
            eos=eos,
            vocab_size=vocab_size,
            progress=lambda done, label=label: progress(label, done, len(prompts)),  # type: ignore[misc]
        )
    replace_file(path, msgspec.json.encode(answers))
    return answers


def write_answers(
    model: Any,
    prompts: Sequence[tuple[str, Sequence[TokenId]]],
    *,
    tokens: int,
    temperature: float,
    eos: frozenset[TokenId],
    vocab_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Answers of at most `tokens` tokens, an end-of-sequence token included.

    Chosen by the rule of docs/topics/exactness.md. The batch rounds otherwise than the serving engine does, so that an
    answer may part from the served one at a near tie; each is the target's own text all the same.

    Args:
        prompts: (category, token ids).
    """
    answers: list[Answer] = []
    for at in range(0, len(prompts), ROWS):
        answers += _write(model, prompts[at : at + ROWS], at, tokens, temperature, eos, vocab_size)
        progress(len(answers))
    return answers


def _write(
    model: Any,
    prompts: Sequence[tuple[str, Sequence[TokenId]]],
    first: int,
    tokens: int,
    temperature: float,
    eos: frozenset[TokenId],
    vocab_size: int,
) -> list[Answer]:
    longest = max(len(prompt) for _, prompt in prompts)
    decoder = BatchDecoder(model, rows=len(prompts), context=longest + tokens)
    seeds = [hashlib.sha256(f"evaluation {first + row}".encode()).digest()[:16] for row in range(len(prompts))]
    samplers = [
        Sampler(Sampling(temperature=temperature), seed, vocab_size, prompt)
        for (_, prompt), seed in zip(prompts, seeds, strict=True)
    ]
    texts: list[list[TokenId]] = []
    for row, (sampler, (_, prompt)) in enumerate(zip(samplers, prompts, strict=True)):
        texts.append([_choose(sampler, decoder.prefill(row, prompt))])
    for _ in range(tokens - 1):
        if all(text[-1] in eos for text in texts):
            break
        logits = decoder.step([text[-1] for text in texts])
        for row, (sampler, text) in enumerate(zip(samplers, texts, strict=True)):
            if text[-1] not in eos:
                text.append(_choose(sampler, logits[row]))
    return [
        Answer(category, tuple(prompt), tuple(text), temperature, seed)
        for (category, prompt), text, seed in zip(prompts, texts, seeds, strict=True)
    ]


def _choose(sampler: Sampler, logits: Any) -> TokenId:
    token = sampler.choose(logits.float().cpu().numpy()).token
    sampler.commit([token])
    return token
