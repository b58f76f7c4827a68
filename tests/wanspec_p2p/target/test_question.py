from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tests.support.desk_bench import Bench, Writer
from tests.support.scripted_models import ByteTokenizer
from tests.support.target_kit import request, target_alone
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.target.question import LONG_TEXT, Reader
from wanspec_p2p.types import FinishReason, Sampling, TokenId


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


class Slow(ByteTokenizer):
    """Reads in a thread until it is told to go on; what it reads on the event loop, at once."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.reading = self.most_at_once = self.in_threads = 0

    def encode(self, text: str) -> list[TokenId]:
        self.reading += 1
        self.most_at_once = max(self.most_at_once, self.reading)
        if threading.current_thread() is not threading.main_thread():
            self.in_threads += 1
            assert self.go_on.wait(60)
        self.reading -= 1
        return super().encode(text)


def long(count: int = LONG_TEXT + 1) -> Sequence[Generate]:
    """In both forms; the second without what the template adds."""
    return request(prompt="x" * count), request(messages=(ChatMessage("user", "x" * (count - 4)),))


async def test_a_long_prompt_is_read_while_others_go_on_and_a_short_one_at_once() -> None:
    tokenizer = Slow()
    reader = Reader(tokenizer)
    for asked in long(LONG_TEXT):
        await reader.ids(asked)
    assert tokenizer.in_threads == 0
    for number, asked in enumerate(long(), 1):
        tokenizer.go_on.clear()
        ids = asyncio.create_task(reader.ids(asked))
        while tokenizer.in_threads < number:  # noqa: ASYNC110  # nobody tells; the loop would never get here if it stood
            await asyncio.sleep(0.001)
        assert not ids.done()
        assert await reader.ids(request()) == (1, 2, 3), "ids need no tokenizer"
        tokenizer.go_on.set()
        assert len(await ids) > LONG_TEXT


async def test_texts_are_read_one_at_a_time_even_after_one_was_cancelled() -> None:
    tokenizer = Slow()
    reader = Reader(tokenizer)
    tasks = [asyncio.create_task(reader.ids(asked)) for asked in (*long(), request(prompt="short"))]
    while not tokenizer.in_threads:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks), "the thread still reads"
    tokenizer.go_on.set()
    assert isinstance((await asyncio.gather(*tasks, return_exceptions=True))[0], asyncio.CancelledError)
    assert tasks[2].result() == list(b"short")
    assert (tokenizer.most_at_once, tokenizer.in_threads) == (1, 2)
