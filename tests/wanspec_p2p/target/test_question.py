from __future__ import annotations

import asyncio

import pytest

from tests.support.desk_bench import Bench, Writer
from tests.support.target_kit import request, target_alone
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.types import FinishReason, Sampling


@in_virtual_time
async def test_the_length_is_what_the_context_leaves() -> None:
    bench = Bench()
    assert len(await bench.answer(request(max_tokens=None))) == 61
    assert len(await bench.answer(request("r2", max_tokens=1000))) == 61
    assert (await bench.said.finished("r2")).reason is FinishReason.LENGTH
    assert len(await bench.answer(request("r3", ids=(1,) * 63))) == 1


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        (request(prompt="héllo"), "héllo".encode()),
        (request(messages=(ChatMessage("user", "hi"),)), b"<user>hi\n<assistant>"),
        (request(messages=(ChatMessage("system", "be"), ChatMessage("user", ""))), b"<system>be\n<user>\n<assistant>"),
    ],
)
@in_virtual_time
async def test_text_and_messages_become_the_tokenizers_ids(asked: Generate, prompt: bytes) -> None:
    bench = Bench()
    assert await bench.answer(asked) == target_alone(bench.model, prompt, 12, Sampling())
    assert (await bench.said.finished()).usage.prompt_tokens == len(prompt)


@in_virtual_time
async def test_end_of_sequence_ends_it_unless_the_submitter_ignores_it() -> None:
    bench = Bench(Writer("abc"))
    assert await bench.answer(request()) == list(b"abc")
    assert (await bench.said.finished()).reason is FinishReason.STOP
    assert await bench.answer(request("r2", ignore_eos=True)) == list(b"abcabcabcabc")


@pytest.mark.parametrize(
    ("committed", "fields", "reason"),
    [
        (b"abcabcabcabc", {}, FinishReason.LENGTH),
        (b"abcabcabcabcabc", {}, FinishReason.LENGTH),
        (b"abc", {"ignore_eos": False}, FinishReason.STOP),
        (b"ab", {"stop": ("b",)}, FinishReason.STOP),
    ],
)
@in_virtual_time
async def test_an_answer_that_was_over_when_its_target_was_lost_is_over(
    committed: bytes, fields: dict[str, object], reason: FinishReason
) -> None:
    bench = Bench(Writer("abc"))
    assert await bench.answer(request(committed=tuple(committed), **({"ignore_eos": True} | fields))) == []
    end = await bench.said.finished()
    assert end.reason is reason
    assert end.usage.completion_tokens == len(committed)
    assert bench.model.batches == []


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (request(prompt=""), "invalid_value", "the prompt is empty"),
        (request(messages=(ChatMessage("user", ""),)), "invalid_value", "the messages are empty"),
        (request(messages=(ChatMessage("system", ""), ChatMessage("user", ""))), "invalid_value", "messages are empty"),
        (request(ids=()), "invalid_value", "exactly one of"),
        (request(prompt="a", prompt_ids=(1,)), "invalid_value", "exactly one of"),
        (request(prompt="a", messages=(ChatMessage("user", "b"),)), "invalid_value", "exactly one of"),
        (request(ids=(1, 256)), "invalid_value", "token ids must be below 256"),
        (request(committed=(300,)), "invalid_value", "token ids must be below 256"),
        (request(ids=(1,) * 64), "context_length_exceeded", "the prompt has 64 tokens"),
        (request(prompt="x" * 65), "context_length_exceeded", "context holds 64"),
    ],
)
@in_virtual_time
async def test_a_bad_request_fails_in_words(asked: Generate, code: str, words: str) -> None:
    bench = Bench()
    bench.desk.generate(asked)
    failed = await bench.said.failed()
    assert failed.code == code
    assert words in failed.message
    await asyncio.sleep(0)
    bench.nothing_is_left()
    assert bench.model.batches == []
