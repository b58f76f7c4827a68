from __future__ import annotations

import dataclasses

import msgspec
import pytest

from coordinator.answer import TEXT_ALONE, TOKEN_TEXT, TOP_TEXT, Answer
from coordinator.openai_schema import Asked
from tests.support.answers_rig import USAGE, asked, failure, target, tokens
from tests.support.fake_target import SERVED
from wanspec_p2p.errors import RemoteProtocolError, RequestTimeout
from wanspec_p2p.protocol.target_to_coordinator import Finished, TokenLogprob, Tokens
from wanspec_p2p.types import FinishReason


def answer_to(asked: Asked) -> Answer:
    return Answer(asked, target(1), 5.0, lambda answer: None)


@pytest.mark.parametrize("committed", [(), (4,)])
async def test_what_remains_goes_on_from_the_tokens_there_are(committed: tuple[int, ...]) -> None:
    answer = answer_to(asked(committed=committed))
    assert answer.started == bool(committed)
    answer.take(tokens(len(committed), 5, 6))
    assert answer.remaining() == msgspec.structs.replace(answer.asked.generate, committed=(*committed, 5, 6))
    assert answer.started


def test_whoever_closes_it_releases_it() -> None:
    released: list[Answer] = []
    answer = Answer(asked(), target(1), 5.0, released.append)
    answer.close()
    assert released == [answer]


@pytest.mark.parametrize(("max_tokens", "longest"), [(3, 3), (None, SERVED.context), (2**17, SERVED.context)])
def test_an_answer_longer_than_asked_for_is_the_targets_fault(max_tokens: int | None, longest: int) -> None:
    answer = answer_to(asked(committed=(7,), max_tokens=max_tokens))
    answer.take(tokens(1, *[5] * (longest - 1)))
    with pytest.raises(RemoteProtocolError, match=f"at most {longest} tokens did not end"):
        answer.take(tokens(longest, 5))
    assert len(answer.ids) == longest - 1


@pytest.mark.parametrize("committed", [3, 5])
def test_the_text_of_an_answer_that_was_at_its_end_already_is_nobodys_fault(committed: int) -> None:
    answer = answer_to(asked(committed=(7,) * committed, max_tokens=3))
    answer.take(Tokens("r", committed, (), "held back", ()))
    with pytest.raises(RemoteProtocolError, match="did not end"):
        answer.take(tokens(committed, 5))


def test_text_without_end_is_the_targets_fault() -> None:
    answer = answer_to(asked(max_tokens=3))
    for _ in range(3 + TEXT_ALONE):
        answer.take(tokens(0))
    with pytest.raises(RemoteProtocolError, match="did not end"):
        answer.take(tokens(0))


def test_tokens_with_more_text_than_tokens_have_are_the_targets_fault() -> None:
    answer = answer_to(asked(max_tokens=3))
    answer.take(Tokens("r", 0, (5,), "x" * 3 * TOKEN_TEXT, (None,)))
    with pytest.raises(RemoteProtocolError, match="at most 3 tokens did not end"):
        answer.take(Tokens("r", 1, (5,), "x", (None,)))


def test_log_probabilities_nobody_asked_for_are_the_targets_fault() -> None:
    answer = answer_to(asked())
    with pytest.raises(RemoteProtocolError, match="asked for none"):
        answer.take(Tokens("r", 0, (5,), "x", (None,), (TokenLogprob(5, "x", -1.0),)))
    assert answer.ids == []


def asked_with_scores(top: int, *, echo: bool = False) -> Asked:
    plain = asked("r", max_tokens=2)
    return dataclasses.replace(plain, generate=msgspec.structs.replace(plain.generate, top_logprobs=top, echo=echo))


def scored(position: int, text: str, *top: str, echo: bool = False) -> Tokens:
    entry = TokenLogprob(5, text, -1.0, tuple((number, each, -1.0) for number, each in enumerate(top)))
    return Tokens("r", position, (5,), text, (None,), (entry,), echo=echo)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("top", [0, 1, 20])
def test_more_likeliest_tokens_than_were_asked_for_are_the_targets_fault(top: int, echo: bool) -> None:
    answer = answer_to(asked_with_scores(top, echo=echo))
    answer.take(scored(0, "x", *"x" * top, echo=echo))
    with pytest.raises(RemoteProtocolError, match=f"more than the {top} likeliest tokens came"):
        answer.take(scored(1, "x", *"x" * (top + 1), echo=echo))


@pytest.mark.parametrize("top", [0, 20])
def test_texts_of_log_probabilities_count_as_text(top: int) -> None:
    answer = answer_to(asked_with_scores(top))
    for position in range(2):
        answer.take(scored(position, "x" * TOKEN_TEXT, *["x" * TOP_TEXT] * top))
    with pytest.raises(RemoteProtocolError, match="at most 2 tokens did not end"):
        answer.take(Tokens("r", 2, (), "x", ()))
    answer = answer_to(asked_with_scores(top))
    answer.take(msgspec.structs.replace(scored(0, "x" * 4 * TOKEN_TEXT, *["x" * 2 * TOP_TEXT] * top), text=""))
    with pytest.raises(RemoteProtocolError, match="at most 2 tokens did not end"):
        answer.take(msgspec.structs.replace(scored(1, "x"), text=""))


def test_texts_of_a_prompts_log_probabilities_count_as_text() -> None:
    answer = answer_to(asked_with_scores(1, echo=True))
    answer.take(scored(0, "x" * TOKEN_TEXT, "x" * TOP_TEXT, echo=True))
    with pytest.raises(RemoteProtocolError, match="more text than tokens have"):
        answer.take(scored(1, "x" * TOKEN_TEXT, "x" * (TOP_TEXT + 1), echo=True))


@pytest.mark.parametrize("position", [0, 3])
def test_tokens_repeated_or_missing_are_the_targets_fault(position: int) -> None:
    answer = answer_to(asked())
    answer.take(tokens(0, 5, 6))
    with pytest.raises(RemoteProtocolError, match=f"token 2 of a request was due, token {position} came"):
        answer.take(tokens(position, 7))


def echo(position: int, *ids: int, text: str = "") -> Tokens:
    return Tokens("r", position, ids, text, (None,) * len(ids), echo=True)


def asked_with_echo() -> Asked:
    plain = asked("r")
    return dataclasses.replace(plain, generate=msgspec.structs.replace(plain.generate, echo=True, max_tokens=5))


def test_a_prompt_that_was_given_back_in_part_is_the_beginning_of_an_answer() -> None:
    """Another engine would score the rest of it otherwise."""
    answer = answer_to(asked_with_echo())
    assert not answer.started
    answer.take(echo(0, 5))
    assert answer.started


async def test_an_echo_comes_before_the_answer_and_once_whoever_sends_it_again() -> None:
    answer = answer_to(asked_with_echo())
    answer.take(echo(0, 8, 9))
    answer.move(target(2))
    answer.take(echo(0, 8, 9))
    answer.take(echo(2, 10))
    answer.take(msgspec.structs.replace(tokens(0, 5), request="r"))
    answer.put(Finished("r", FinishReason.STOP, USAGE))
    assert [(part.echo, part.ids) for part in [part async for part in answer]] == [
        (True, (8, 9)),
        (True, (10,)),
        (False, (5,)),
    ]
    assert answer.ids == [5]


@pytest.mark.parametrize(
    "message",
    [
        echo(1, 8),
        echo(0, *range(2000)),
        echo(0, 8, text="x" * 2000),
        msgspec.structs.replace(echo(0, 8), logprobs=(TokenLogprob(8, "x", None),)),
    ],
    ids=["a gap", "longer than the context", "too much text", "scores nobody asked for"],
)
def test_an_echo_out_of_bounds_is_the_targets_fault(message: Tokens) -> None:
    answer = answer_to(asked_with_echo())
    with pytest.raises(RemoteProtocolError, match="a prompt came back"):
        answer.take(message)


def test_an_echo_nobody_asked_for_is_the_targets_fault() -> None:
    answer = answer_to(asked("r"))
    with pytest.raises(RemoteProtocolError, match="a prompt came back"):
        answer.take(echo(0, 8))


async def test_the_end_of_the_text_is_not_said_twice() -> None:
    """The target was lost after what it held back and before it said that it had finished."""
    answer = answer_to(asked())
    answer.take(tokens(0, 5))
    answer.take(Tokens("r", 1, (), "rest", ()))
    answer.move(target(2))
    answer.take(Tokens("r", 1, (), "rest", ()))
    answer.put(Finished("r", FinishReason.STOP, USAGE))
    assert "".join([part.text async for part in answer]) == "xrest"


async def test_a_target_that_says_nothing_is_a_timeout() -> None:
    answer = Answer(asked(), target(1), 0.0, lambda answer: None)
    assert isinstance(await failure(answer), RequestTimeout)
