"""The prompt given back: the scores are the model's own, whatever the prompt's length, and nothing is left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_kit import request
from wanspec_p2p.errors import EngineError, InvalidRequest
from wanspec_p2p.protocol.target_to_coordinator import TokenLogprob, Tokens
from wanspec_p2p.speculation.instructions import TokenScores
from wanspec_p2p.target.echo import MAX_SCORES, PIECE_TOKENS, echo, token_logprob
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.types import Segment, TokenId


async def echoed(model: ScriptedModel, prompt: Sequence[TokenId], top: int | None) -> list[Tokens]:
    said: list[Tokens] = []
    asked = request(ids=prompt, echo=True, top_logprobs=top)
    async with asyncio.timeout(20):
        await echo(asked, prompt, engine=Engine(model, 1), tokenizer=ByteTokenizer(), cache="echo", say=said.append)
    assert model.caches == {}
    return said


def log_softmax(model: ScriptedModel, prefix: Sequence[TokenId]) -> np.ndarray:
    row = model.row(prefix).astype(np.float64)
    return row - row.max() - math.log(np.exp(row - row.max()).sum())


@pytest.mark.parametrize("length", [1, 2, PIECE_TOKENS, PIECE_TOKENS + 1, 3 * PIECE_TOKENS - 1])
async def test_every_token_has_the_score_the_model_gives_it(length: int) -> None:
    model = ScriptedModel(seed=1)
    prompt = [(7 * i) % 200 for i in range(length)]
    said = await echoed(model, prompt, 2)
    assert [token for message in said for token in message.ids] == prompt
    assert [message.position for message in said] == list(range(0, length, PIECE_TOKENS))
    entries = [entry for message in said for entry in message.logprobs]
    assert entries[0] == TokenLogprob(prompt[0], ByteTokenizer().piece(prompt[0]), None)
    for at in range(1, length):
        scores = log_softmax(model, prompt[:at])
        assert entries[at].logprob == pytest.approx(scores[prompt[at]], abs=1e-9)
        best = sorted(range(256), key=lambda token: (-scores[token], token))[:2]
        assert [token for token, _, _ in entries[at].top] == best


async def test_without_scores_the_model_is_not_asked() -> None:
    model = ScriptedModel(seed=1)
    prompt = list(("é" * 40).encode())
    said = await echoed(model, prompt, None)
    assert "".join(message.text for message in said) == "é" * 40
    assert all(message.echo and message.logprobs == () for message in said)
    assert model.batches == []


async def test_a_prompt_that_ends_inside_a_character_shows_that() -> None:
    (only,) = await echoed(ScriptedModel(seed=1), [ord("a"), 0xC3], None)
    assert only.text == "a\N{REPLACEMENT CHARACTER}"


async def test_a_model_that_fails_leaves_no_cache() -> None:
    async def fail(batch: Sequence[Segment]) -> None:
        if len(model.batches) == 2:
            raise EngineError("broken")

    model = ScriptedModel(seed=1, before_forward=fail)
    with pytest.raises(EngineError):
        await echoed(model, [1] * (2 * PIECE_TOKENS), 0)
    assert model.caches == {}


async def test_scores_beyond_what_the_coordinator_can_hold_are_refused_before_any_pass() -> None:
    model = ScriptedModel(seed=1, context=MAX_SCORES)
    with pytest.raises(InvalidRequest, match="too many") as error:
        await echoed(model, [1] * (MAX_SCORES // 21 + 1), 20)
    assert (error.value.param, model.batches) == ("logprobs", [])


def test_long_pieces_are_cut() -> None:
    class Verbose(ByteTokenizer):
        def piece(self, token: TokenId) -> str:
            return "x" * 5000

    entry = token_logprob(Verbose(), 1, TokenScores(-1.0, ((2, -0.5),)))
    assert (len(entry.text), len(entry.top[0][1])) == (1024, 1024)
