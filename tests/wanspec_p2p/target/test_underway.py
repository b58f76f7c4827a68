from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.target_kit import request
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Tokens, Usage
from wanspec_p2p.target.underway import Said, Underway
from wanspec_p2p.types import FinishReason

USAGE = Usage(prompt_tokens=1, completion_tokens=3, rounds=1, drafted=0, accepted=0, late=0)
END = Finished("r1", FinishReason.LENGTH, USAGE)


def tokens(position: int, *ids: int, **fields: Any) -> Tokens:
    return Tokens("r1", position, ids, f"text {position}", (None,) * len(ids), **fields)


class Bench:
    """A request that has said some tokens; nobody listens since."""

    def __init__(self, *said: Said, **fields: Any) -> None:
        self.heard: list[Said] = []
        self.fields = fields
        self.underway = Underway(request(**fields), self.heard.append)
        for message in said:
            self.underway(message)

    async def __aenter__(self) -> Bench:
        self.underway.task = asyncio.create_task(asyncio.sleep(3600))
        self.underway.deadline = asyncio.get_running_loop().call_later(3600, lambda: None)
        self.heard.clear()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.underway.task.cancel()
        await asyncio.gather(self.underway.task, return_exceptions=True)
        if self.underway.deadline is not None:
            self.underway.deadline.cancel()

    def again(self, *committed: int, **changes: Any) -> Any:
        return msgspec.structs.replace(request("again", **self.fields), committed=committed, **changes)


@pytest.fixture
def said() -> Iterator[tuple[Tokens, ...]]:
    yield tokens(0, 5, 6), tokens(2, 7), tokens(3, 8)


async def test_while_somebody_listens_everything_is_said_under_its_name() -> None:
    bench = Bench(tokens(0, 5), END)
    assert bench.heard == [tokens(0, 5), END]


async def test_who_asks_again_is_given_what_comes_after_and_hears_the_rest(said: tuple[Tokens, ...]) -> None:
    async with Bench(*said) as bench:
        bench.underway(tokens(4, 9))
        assert bench.heard == [], "nobody listens"
        again = bench.again(5, 6, 7)
        assert bench.underway.continues(again)
        bench.underway.resume(again)
        bench.underway(END)
        assert [(message.request, getattr(message, "position", None)) for message in bench.heard] == [
            ("again", 3),
            ("again", 4),
            ("again", None),
        ]


@pytest.mark.parametrize("committed", [(), (5, 6), (5, 6, 7, 8)])
async def test_it_is_continued_from_wherever_a_message_ended(
    said: tuple[Tokens, ...], committed: tuple[int, ...]
) -> None:
    async with Bench(*said) as bench:
        bench.underway.resume(bench.again(*committed))
        ids = [token for message in bench.heard if isinstance(message, Tokens) for token in message.ids]
        assert (*committed, *ids) == (5, 6, 7, 8)


@pytest.mark.parametrize(
    "committed",
    [(5,), (5, 7), (4, 6), (5, 6, 7, 8, 9)],
    ids=["inside a message", "another token", "another first", "more than there is"],
)
async def test_other_tokens_are_another_answer(said: tuple[Tokens, ...], committed: tuple[int, ...]) -> None:
    async with Bench(*said) as bench:
        assert not bench.underway.continues(bench.again(*committed))


@pytest.mark.parametrize(
    "change", [{"seed": bytes(16)}, {"prompt_ids": (1, 2)}, {"max_tokens": 13}, {"stop": ("x",)}, {"network": False}]
)
async def test_another_question_is_another_answer(change: dict[str, Any]) -> None:
    async with Bench() as bench:
        assert bench.underway.continues(bench.again())
        assert not bench.underway.continues(bench.again(**change))


async def test_an_answer_that_was_resumed_before_counts_from_where_it_began_here() -> None:
    async with Bench(tokens(2, 7), committed=(5, 6)) as bench:
        assert bench.underway.continues(bench.again(5, 6))
        assert bench.underway.continues(bench.again(5, 6, 7))
        for others in ((), (5,), (5, 5), (5, 5, 7)):
            assert not bench.underway.continues(bench.again(*others))


async def test_tokens_of_the_prompt_are_no_part_of_the_answer() -> None:
    async with Bench(tokens(0, 1, 2, 3, echo=True), tokens(0, 5), END) as bench:
        assert bench.underway.continues(bench.again(5))
        bench.underway.resume(bench.again())
        assert [getattr(message, "echo", None) for message in bench.heard] == [True, False, None]


async def test_what_has_failed_or_was_cancelled_is_begun_anew() -> None:
    async with Bench(Failed("r1", "internal_error", "the model failed")) as bench:
        assert not bench.underway.continues(bench.again())
    async with Bench() as bench:
        bench.underway.task.cancel()
        assert not bench.underway.continues(bench.again())


async def test_tokens_after_the_end_are_another_answer() -> None:
    async with Bench(tokens(0, 5), END) as bench:
        assert bench.underway.continues(bench.again(5))
        assert not bench.underway.continues(bench.again(5, 6))
