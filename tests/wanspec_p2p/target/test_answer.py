from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from tests.support.desk_bench import NODE, Bench, Writer
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_kit import request
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.protocol.target_to_coordinator import Tokens
from wanspec_p2p.types import FinishReason

WRITER = "one<|> two STOP three"


@in_virtual_time
async def test_log_probabilities_are_the_models_own() -> None:
    bench = Bench()
    tokens = await bench.answer(request(top_logprobs=3))
    scores = [score for part in bench.said.of("r1") if isinstance(part, Tokens) for score in part.logprobs]
    assert [score.token for score in scores] == tokens
    row = bench.model.row((1, 2, 3)).astype(np.float64)
    law = row - math.log(np.exp(row - row.max()).sum()) - row.max()
    best = np.argsort(-law)[:3]
    assert scores[0].logprob == pytest.approx(law[tokens[0]])
    assert [token for token, _, _ in scores[0].top] == best.tolist()
    assert [logprob for _, _, logprob in scores[0].top] == pytest.approx(law[best].tolist())
    assert scores[0].text == ByteTokenizer().piece(tokens[0])


@in_virtual_time
async def test_without_top_tokens_the_chosen_one_alone_has_a_log_probability() -> None:
    bench = Bench()
    await bench.answer(request(top_logprobs=0))
    scores = [score for part in bench.said.of("r1") if isinstance(part, Tokens) for score in part.logprobs]
    assert len(scores) == 12
    assert all(score.top == () for score in scores)


@in_virtual_time
async def test_nothing_after_a_stop_string_is_sent_or_counted() -> None:
    bench = Bench(Writer(WRITER))
    tokens = await bench.answer(request(stop=("STOP",), max_tokens=100, ignore_eos=True))
    assert bytes(tokens) == b"one<|> two STOP"
    assert bench.said.text() == "one<|> two "
    end = await bench.said.finished()
    assert end.reason is FinishReason.STOP
    assert end.usage.completion_tokens == len(tokens)
    origins = [o for part in bench.said.of("r1") if isinstance(part, Tokens) for o in part.origins]
    assert end.usage.accepted == sum(end.usage.won_by_peer.values()) == sum(o is not None for o in origins)


@in_virtual_time
async def test_a_round_that_goes_on_past_the_stop_string_is_cut() -> None:
    bench = Bench(Writer(WRITER))
    assert bytes(await bench.answer(request(stop=("ne",), max_tokens=100, ignore_eos=True))) == b"one"
    assert bench.said.text() == "o"
    usage = (await bench.said.finished()).usage
    assert (usage.completion_tokens, usage.rounds) == (3, 1)
    assert usage.accepted == usage.won_by_peer[NODE] == 3
    assert bench.receipts[0].won > 3, "what came after was the node's work all the same"


@in_virtual_time
async def test_held_back_text_is_shown_when_the_answer_ends_without_the_stop_string() -> None:
    bench = Bench(Writer(WRITER))
    tokens = await bench.answer(request(stop=("STOPPED",), max_tokens=15, ignore_eos=True))
    assert bytes(tokens) == b"one<|> two STOP"
    assert bench.said.text() == "one<|> two STOP"
    assert (await bench.said.finished()).reason is FinishReason.LENGTH


@in_virtual_time
async def test_a_broken_last_character_is_shown_as_such() -> None:
    bench = Bench(Writer("a✓"))
    await bench.answer(request(max_tokens=3))
    assert bench.said.text() == "a\ufffd"


@in_virtual_time
async def test_a_resumed_answer_shows_only_what_was_not_shown() -> None:
    bench = Bench(Writer("✓✓ STOP."))
    committed = "✓✓".encode()[:4]
    await bench.answer(request(stop=("STOP",), committed=tuple(committed), max_tokens=100))
    assert bench.said.text() == "✓ "


@in_virtual_time
async def test_a_long_answer_that_is_resumed_does_not_keep_everybody_else_waiting() -> None:
    bench = Bench(ScriptedModel(seed=1, context=4096))
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while not bench.model.batches:
            turns += 1
            await asyncio.sleep(0)

    bench.desk.generate(request(committed=(65,) * 4000, max_tokens=4001))
    await somebody_else()
    assert turns > 4000 / 100
    assert (await bench.said.finished()).usage.completion_tokens == 4001
    await bench.desk.idle(60)
