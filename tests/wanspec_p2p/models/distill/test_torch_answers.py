from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.wanspec_p2p.models.distill.conftest import END, VOCABULARY, dialogue
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.distill import torch_answers
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.job import Job
from wanspec_p2p.models.distill.plan import Plan
from wanspec_p2p.models.distill.torch_answers import (
    ask_target,
    brought_prompts,
    held_back_prompts,
    write_answers,
)
from wanspec_p2p.models.distill.torch_corpus import find_source
from wanspec_p2p.models.distill.torch_training import HELD_BACK_EVERY, Schedule
from wanspec_p2p.models.torch_device import choose_device
from wanspec_p2p.models.torch_tokenizer import TorchTokenizer
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Device, Dtype, Sampling

PROMPTS = [("a", [257, 72]), ("b", [257, 72, 105, 33]), ("a", [1])]


@pytest.fixture
def job(target_directory: Path, tmp_path: Path) -> Job:
    catalog = Catalog(tmp_path / "cache")
    return Job(
        source=find_source(str(target_directory), catalog),
        plan=Plan(layers=(0,), tokens=1, schedule=Schedule()),
        out=tmp_path / "out",
        placement=choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1),
        catalog=catalog,
        command="",
        machine="",
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_are_the_targets_own_by_the_rule(target: Any, plain: Any, temperature: float) -> None:
    answers = write_answers(target, PROMPTS, tokens=10, temperature=temperature, eos=frozenset(), vocab_size=VOCABULARY)
    for (category, prompt), answer in zip(PROMPTS, answers, strict=True):
        assert (answer.category, answer.prompt, answer.temperature) == (category, tuple(prompt), temperature)
        sampler = Sampler(Sampling(temperature=temperature), answer.seed, VOCABULARY, prompt)
        expected: list[int] = []
        for _ in range(10):
            with torch.inference_mode():
                row = plain(torch.tensor([[*prompt, *expected]]), use_cache=False).logits[0, -1].numpy()
            expected.append(sampler.choose(row).token)
            sampler.commit(expected[-1:])
        assert list(answer.tokens) == expected
    assert len({answer.seed for answer in answers}) == len(PROMPTS)


def test_answers_end_where_the_target_ends_them(target: Any) -> None:
    free = write_answers(target, PROMPTS, tokens=10, temperature=0.0, eos=frozenset(), vocab_size=VOCABULARY)
    ends = frozenset({free[1].tokens[3]})
    ended = write_answers(target, PROMPTS, tokens=10, temperature=0.0, eos=ends, vocab_size=VOCABULARY)
    for one, whole in zip(ended, free, strict=True):
        cut = next((i + 1 for i, token in enumerate(whole.tokens) if token in ends), 10)
        assert one.tokens == whole.tokens[:cut]
    assert len(ended[1].tokens) <= 4


def test_the_batch_they_are_written_in_does_not_matter(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> list[tuple[tuple[int, ...], bytes]]:
        told: list[int] = []
        answers = write_answers(
            target,
            PROMPTS,
            tokens=6,
            temperature=0.8,
            eos=frozenset({END}),
            vocab_size=VOCABULARY,
            progress=told.append,
        )
        assert told[-1] == len(PROMPTS)
        return [(answer.tokens, answer.seed) for answer in answers]

    together = written()
    monkeypatch.setattr(torch_answers, "ROWS", 2)
    assert written() == together


def test_the_targets_answers_are_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    answers = ask_target(job, PROMPTS, lambda what, done, total: told.append((what, done, total)))
    assert [answer.temperature for answer in answers] == [0.0] * 3 + [0.8] * 3
    assert told[-1] == ("answers at temperature 0.8", 3, 3)
    monkeypatch.setattr(torch_answers, "read_batched", lambda *args, **kwargs: pytest.fail("asked twice"))
    assert ask_target(job, PROMPTS, lambda *told: None) == answers
    [kept] = job.out.glob("answers-*.json")
    kept.write_text("[")
    with pytest.raises(ConfigError, match=r"answers-\w+\.json is damaged .*: delete it, then repeat"):
        ask_target(job, PROMPTS, lambda *told: None)


def test_other_prompts_are_other_answers(job: Job) -> None:
    ask_target(job, PROMPTS[:1], lambda *told: None)
    ask_target(job, PROMPTS[1:2], lambda *told: None)
    assert len(list(job.out.glob("answers-*.json"))) == 2


def test_prompts_that_were_brought(job: Job) -> None:
    tokenizer = TorchTokenizer(job.source.directory)
    made = brought_prompts(dataclasses.replace(job, unseen=[("c", "Why?")]))
    assert made == [("c", tokenizer.encode_chat([("user", "Why?")]))]
    assert brought_prompts(job) == []
    with pytest.raises(ConfigError, match="--unseen: a prompt has 519 tokens, the target has room for 416: leave it"):
        brought_prompts(dataclasses.replace(job, unseen=[("c", "x" * 500)]))


def held(*lengths: int) -> list[Dialogue]:
    """Every dialogue that is held back is given up to `length`, and answered from there on."""
    made = [dialogue(6) for _ in range(HELD_BACK_EVERY * len(lengths))]
    for number, length in enumerate(lengths):
        ids = np.arange(length + 2, dtype=np.int32)
        origins = np.full(length + 2, Origin.ANSWER, np.uint8)
        origins[:length] = Origin.GIVEN
        at = HELD_BACK_EVERY * (number + 1) - 1
        made[at] = dataclasses.replace(made[at], kind=f"kind {number}", ids=ids, origins=origins)
    return made


def test_dialogues_held_back_are_asked_up_to_their_answer(job: Job) -> None:
    assert held_back_prompts(job, held(3, 5)) == [("kind 0", [0, 1, 2]), ("kind 1", [0, 1, 2, 3, 4])]
    assert held_back_prompts(job, held(3, 417)) == [("kind 0", [0, 1, 2])]  # no room for an answer behind it


def test_a_prompt_that_is_trained_on_elsewhere_is_not_judged_on(job: Job) -> None:
    made = held(3, 5)
    made[50] = made[HELD_BACK_EVERY - 1]
    assert held_back_prompts(job, made) == [("kind 1", [0, 1, 2, 3, 4])]
    made[50] = made[2 * HELD_BACK_EVERY - 1]
    assert held_back_prompts(job, made) == [("kind 0", [0, 1, 2])]


def test_prompts_to_train_on_are_not_unseen(job: Job) -> None:
    both = dataclasses.replace(job, unseen=[("c", "Why?"), ("c", "How?")], prompts=["How?", "When?"])
    with pytest.raises(ConfigError, match="--unseen: 1 of its prompts are in --prompts as well: leave them out"):
        brought_prompts(both)


def test_too_few_dialogues_are_one_line(job: Job) -> None:
    with pytest.raises(ConfigError, match="none of 39 dialogues could be held back to judge on: ask for more --tokens"):
        held_back_prompts(job, held(3)[:39])
