from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.ngram import NgramModel
from wanspec_p2p.simulation import recorder
from wanspec_p2p.simulation.recorder import record
from wanspec_p2p.simulation.recording import Recording, read_recording, write_recording
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.types import Sampling

PROMPTS = [("one", [1, 2, 3]), ("two", [4] * 20)]


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TIMED_PASSES", 1)


async def recorded(
    target: ScriptedModel, drafter: Any, temperature: float = 0.0, seed: int = 0, **more: Any
) -> Recording:
    settings = {"tokens": 12, "machine": "here", "names": ("big", "small"), **more}
    return await record(target, drafter, PROMPTS, temperature=temperature, seed=seed, **settings)


async def test_every_position_of_a_greedy_answer_is_judged() -> None:
    target, drafter = ScriptedModel(1), ScriptedModel(1, drift=0.3)
    recording = await recorded(target, drafter)
    assert [answer.prompt for answer in recording.answers] == ["one", "two"]
    for answer, (_, prompt) in zip(recording.answers, PROMPTS, strict=True):
        prefix = list(prompt)
        for token, candidates, confidence in zip(answer.tokens, answer.candidates, answer.confidences, strict=True):
            assert token == target.row(prefix).argmax()
            ranking = Sampler(Sampling(), bytes(16), 256, prefix).rank(drafter.row(prefix), count=4)
            assert (candidates, confidence) == (ranking.tokens, ranking.confidence)
            prefix.append(token)
        assert len(prefix) == len(prompt) + 12
    assert target.caches == drafter.caches == {}


async def test_a_drafter_that_is_the_target_is_always_right_whatever_the_temperature() -> None:
    recording = await recorded(ScriptedModel(1), ScriptedModel(1), temperature=0.8)
    assert {position.rank for position in recording.judged()} == {1}
    assert recording.header.temperature == 0.8


async def test_the_seed_decides_the_draws_and_nothing_else_does() -> None:
    said = [
        [answer.tokens for answer in (await recorded(ScriptedModel(1), ScriptedModel(2), 0.8, seed)).answers]
        for seed in (5, 5, 6)
    ]
    assert said[0] == said[1] != said[2]


async def test_an_answer_ends_with_its_end_of_sequence_token() -> None:
    [first, *_] = (await recorded(ScriptedModel(1), ScriptedModel(1))).answers
    eos = first.tokens[4]
    [again, *_] = (await recorded(ScriptedModel(1, eos=(eos,)), ScriptedModel(1))).answers
    assert again.tokens == first.tokens[: first.tokens.index(eos) + 1]


async def test_what_the_header_says(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    target, drafter = ScriptedModel(1), ScriptedModel(2)
    recording = await recorded(target, drafter, seed=9, progress=lambda *what: told.append(what))
    header = recording.header
    assert (header.target.name, header.drafter.name, header.machine, header.seed) == ("big", "small", "here", 9)
    assert (header.target.digest, header.drafter.digest) == (target.info.digest, drafter.info.digest)
    assert [rows for rows, _ in header.target.seconds] == [1, 4, 8, 16, 32, 64]
    assert [rows for rows, _ in header.drafter.seconds] == [1, 4, 8]
    assert told == [("record", 0, 2), ("record", 1, 2), ("record", 2, 2)]
    write_recording(tmp_path / "r", recording)
    assert read_recording(tmp_path / "r", tokenizer=target.info.tokenizer) == recording


async def test_a_drafter_without_opinion_is_recorded_as_such() -> None:
    target = ScriptedModel(1)
    drafter = NgramModel(tokenizer=target.info.tokenizer, vocab_size=256, context=4096)
    judged = (await recorded(target, drafter)).judged()
    assert (0, 0, 0) in judged


async def test_models_with_different_tokenizers_are_refused() -> None:
    with pytest.raises(ModelError, match="scripted and ngram have different tokenizers"):
        await recorded(ScriptedModel(1), NgramModel(tokenizer="t" * 64, vocab_size=256, context=4096))


async def test_a_prompt_without_room_for_its_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--prompts: two has 20 tokens, and answers of 12 leave room for 14"):
        await recorded(ScriptedModel(1, context=90), ScriptedModel(1))
