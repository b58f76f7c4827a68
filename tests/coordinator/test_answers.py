from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from coordinator.answers import MAX_RESUMES, TEXT_ALONE, TOKEN_TEXT, Answer, Answers
from coordinator.openai_schema import Asked
from coordinator.records import PeerState, TargetRecord
from tests.support.fake_target import SERVED
from wanspec_p2p.errors import (
    ContextTooLong,
    NoTarget,
    Overloaded,
    RemoteProtocolError,
    RequestError,
    RequestTimeout,
    TargetLost,
    UnknownModel,
)
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, TokenLogprob, Tokens, Usage
from wanspec_p2p.types import FinishReason, PeerId, Sampling

USAGE = Usage(prompt_tokens=1, completion_tokens=99, rounds=1, drafted=0, accepted=0, late=0)


def target(link: int, *, slots: int = 2, queue: int = 0, fingerprint: str = "f" * 64) -> TargetRecord:
    model = msgspec.structs.replace(SERVED, fingerprint=fingerprint)
    return TargetRecord(
        link, PeerId(str(link) * 32), "p", "t", "o", "s", model, ("ws://x",), None, slots, queue, since=0.0, seen=0.0
    )


def asked(
    request: str = "r", model: str = "big", committed: tuple[int, ...] = (), max_tokens: int | None = None
) -> Asked:
    generate = Generate(request, bytes(16), Sampling(), prompt="x", committed=committed, max_tokens=max_tokens)
    return Asked(model, generate, stream=False, include_usage=False, chat=False)


def tokens(position: int, *ids: int, request: str = "r") -> Tokens:
    return Tokens(request, position, ids, "x", (None,) * len(ids))


class Rig:
    def __init__(self, *targets: TargetRecord) -> None:
        self.targets = list(targets)
        self.sent: list[tuple[int, Generate | Cancel]] = []
        self.hung: set[int] = set()
        self.answers = Answers(lambda: self.targets, self.send, stall_seconds=5.0, hung=self.hung.__contains__)

    def send(self, link: int, message: Any) -> None:
        self.sent.append((link, message))

    def lose(self, link: int) -> None:
        self.targets = [target for target in self.targets if target.link != link]
        self.answers.target_gone(link, "the target is gone")

    def hang(self, link: int) -> int:
        self.hung.add(link)
        return self.answers.target_hung(link)


async def failure(answer: Answer) -> RequestError:
    with pytest.raises(RequestError) as error:
        async with asyncio.timeout(5):
            async for _ in answer:
                pass
    return error.value


async def test_an_answer_from_its_target_to_its_end() -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked())
    assert rig.sent == [(1, asked().generate)]
    rig.answers.tokens(1, tokens(0, 5, 6))
    rig.answers.tokens(1, tokens(2, 7))
    rig.answers.finish(1, Finished("r", FinishReason.STOP, USAGE))
    assert [part.ids async for part in answer] == [(5, 6), (7,)]
    assert answer.finished is not None
    assert answer.finished.usage.completion_tokens == 3
    answer.close()
    assert len(rig.sent) == 1  # nothing to cancel
    assert (len(rig.answers), rig.answers.load(1)) == (0, 0)


def test_the_least_loaded_target_is_chosen() -> None:
    rig = Rig(target(1, slots=1, queue=5), target(2, slots=4))
    links = [rig.answers.open(asked(str(number))).link for number in range(5)]
    assert links == [1, 2, 2, 2, 2]


def test_refusals() -> None:
    with pytest.raises(NoTarget) as nobody:
        Rig().answers.open(asked())
    assert nobody.value.retry_after == 5.0
    with pytest.raises(UnknownModel, match="there are: big"):
        Rig(target(1)).answers.open(asked(model="other"))
    draining = target(1)
    draining.state = PeerState.DRAINING
    with pytest.raises(NoTarget):
        Rig(draining).answers.open(asked())
    full = Rig(target(1, slots=1, queue=1))
    full.answers.open(asked("1"))
    full.answers.open(asked("2"))
    with pytest.raises(Overloaded) as overloaded:
        full.answers.open(asked("3"))
    assert overloaded.value.retry_after == 1.0


async def test_a_failure_comes_as_the_targets_error() -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked())
    rig.answers.fail(1, Failed("r", "context_length_exceeded", "too long", "prompt"))
    error = await failure(answer)
    assert isinstance(error, ContextTooLong)
    assert (error.message, error.param) == ("too long", "prompt")


async def test_an_answer_its_target_gives_up_has_failed() -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked())
    rig.answers.finish(1, Finished("r", FinishReason.CANCELLED, USAGE))
    assert isinstance(await failure(answer), TargetLost)


@pytest.mark.parametrize(("max_tokens", "longest"), [(3, 3), (None, SERVED.context), (2**17, SERVED.context)])
def test_an_answer_longer_than_asked_for_is_the_targets_fault(max_tokens: int | None, longest: int) -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked(committed=(7,), max_tokens=max_tokens))
    rig.answers.tokens(1, tokens(1, *[5] * (longest - 1)))
    with pytest.raises(RemoteProtocolError, match=f"at most {longest} tokens did not end"):
        rig.answers.tokens(1, tokens(longest, 5))
    assert len(answer.ids) == longest - 1


def test_text_without_end_is_the_targets_fault() -> None:
    rig = Rig(target(1))
    rig.answers.open(asked(max_tokens=3))
    for _ in range(3 + TEXT_ALONE):
        rig.answers.tokens(1, tokens(0))
    with pytest.raises(RemoteProtocolError, match="did not end"):
        rig.answers.tokens(1, tokens(0))


def test_tokens_with_more_text_than_tokens_have_are_the_targets_fault() -> None:
    rig = Rig(target(1))
    rig.answers.open(asked(max_tokens=3))
    rig.answers.tokens(1, Tokens("r", 0, (5,), "x" * 3 * TOKEN_TEXT, (None,)))
    with pytest.raises(RemoteProtocolError, match="at most 3 tokens did not end"):
        rig.answers.tokens(1, Tokens("r", 1, (5,), "x", (None,)))


def test_log_probabilities_nobody_asked_for_are_the_targets_fault() -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked())
    with pytest.raises(RemoteProtocolError, match="asked for none"):
        rig.answers.tokens(1, Tokens("r", 0, (5,), "x", (None,), (TokenLogprob(5, "x", -1.0),)))
    assert answer.ids == []


@pytest.mark.parametrize("position", [0, 3])
def test_tokens_repeated_or_missing_are_the_targets_fault(position: int) -> None:
    rig = Rig(target(1))
    rig.answers.open(asked())
    rig.answers.tokens(1, tokens(0, 5, 6))
    with pytest.raises(RemoteProtocolError, match=f"token 2 of a request was due, token {position} came"):
        rig.answers.tokens(1, tokens(position, 7))


def echo(position: int, *ids: int, text: str = "") -> Tokens:
    return Tokens("r", position, ids, text, (None,) * len(ids), echo=True)


def asked_with_echo() -> Asked:
    plain = asked("r")
    return dataclasses.replace(plain, generate=msgspec.structs.replace(plain.generate, echo=True, max_tokens=5))


async def test_an_echo_comes_before_the_answer_and_once_whoever_sends_it_again() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked_with_echo())
    first = answer.link
    rig.answers.tokens(first, echo(0, 8, 9))
    rig.answers.target_gone(first, "gone")
    assert answer.link != first
    rig.answers.tokens(answer.link, echo(0, 8, 9))
    rig.answers.tokens(answer.link, echo(2, 10))
    rig.answers.tokens(answer.link, msgspec.structs.replace(tokens(0, 5), request="r"))
    rig.answers.finish(answer.link, Finished("r", FinishReason.STOP, USAGE))
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
    rig = Rig(target(1))
    rig.answers.open(asked_with_echo())
    with pytest.raises(RemoteProtocolError, match="a prompt came back"):
        rig.answers.tokens(1, message)


def test_an_echo_nobody_asked_for_is_the_targets_fault() -> None:
    rig = Rig(target(1))
    rig.answers.open(asked("r"))
    with pytest.raises(RemoteProtocolError, match="a prompt came back"):
        rig.answers.tokens(1, echo(0, 8))


def test_messages_about_others_answers_are_ignored() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    other = 3 - answer.link
    rig.answers.tokens(other, tokens(0, 1))
    rig.answers.finish(other, Finished("r", FinishReason.STOP, USAGE))
    rig.answers.fail(other, Failed("r", "internal_error", "x"))
    rig.answers.tokens(answer.link, tokens(0, 1, request="unknown"))
    assert (answer.ids, len(rig.answers)) == ([], 1)


async def test_closing_cancels_at_the_target_once() -> None:
    rig = Rig(target(1))
    answer = rig.answers.open(asked())
    answer.close()
    answer.close()
    assert rig.sent[1:] == [(1, Cancel("r", "the submitter is gone"))]
    rig.answers.tokens(1, tokens(0, 1))  # on its way when we cancelled
    assert answer.ids == []


async def test_a_lost_target_without_an_heir_is_a_typed_error_now() -> None:
    rig = Rig(target(1), target(2, fingerprint="e" * 64))
    answer = rig.answers.open(asked())
    assert answer.link == 1
    rig.answers.tokens(1, tokens(0, 5))
    rig.lose(1)
    error = await failure(answer)
    assert isinstance(error, TargetLost)
    assert "after 1 tokens" in error.message


async def test_an_answer_goes_on_from_the_tokens_there_are() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked(committed=(4,)))
    rig.answers.tokens(1, tokens(1, 5, 6))
    rig.lose(1)
    link, generate = rig.sent[-1]
    assert link == 2
    assert isinstance(generate, Generate)
    assert generate.committed == (4, 5, 6)
    rig.answers.tokens(2, tokens(3, 7))
    rig.answers.finish(2, Finished("r", FinishReason.STOP, USAGE))
    assert [part.ids async for part in answer] == [(5, 6), (7,)]
    assert (answer.resumes, rig.answers.load(1), rig.answers.load(2)) == (1, 0, 0)


def test_before_its_first_token_an_answer_may_go_to_any_target_of_the_model() -> None:
    rig = Rig(target(1), target(2, fingerprint="e" * 64))
    answer = rig.answers.open(asked())
    rig.lose(1)
    assert (answer.link, answer.model.fingerprint) == (2, "e" * 64)


async def test_a_prompt_that_brings_targets_down_does_not_go_on_for_ever() -> None:
    rig = Rig(*(target(number) for number in range(1, 9)))
    answer = rig.answers.open(asked())
    for _ in range(MAX_RESUMES):
        rig.lose(answer.link)
    assert answer.resumes == MAX_RESUMES
    rig.lose(answer.link)
    assert isinstance(await failure(answer), TargetLost)
    assert len(rig.targets) == 8 - MAX_RESUMES - 1


# Hung -----------------------------------------------------------------------------------------------------------------


async def test_a_hung_targets_answer_goes_on_elsewhere_and_it_is_told() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    rig.answers.tokens(1, tokens(0, 5))
    assert set(rig.answers.owing) == {1}
    assert rig.hang(1) == 1
    assert rig.sent[1:] == [(1, Cancel("r", "another target goes on with it")), (2, answer.remaining())]
    assert answer.remaining().committed == (5,)
    rig.answers.tokens(1, tokens(1, 6))  # it has woken up, and not read the cancellation yet
    rig.answers.finish(1, Finished("r", FinishReason.STOP, USAGE))
    rig.answers.tokens(2, tokens(1, 6))
    rig.answers.finish(2, Finished("r", FinishReason.STOP, USAGE))
    assert [part.ids async for part in answer] == [(5,), (6,)]
    assert (answer.resumes, rig.answers.load(1), rig.answers.load(2)) == (1, 0, 0)


@pytest.mark.parametrize("others", [(), (2,)])
async def test_what_nobody_else_can_take_waits_for_the_hung_target(others: tuple[int, ...]) -> None:
    rig = Rig(target(1), *(target(link, fingerprint="e" * 64) for link in others))
    answer = rig.answers.open(asked())
    rig.answers.tokens(1, tokens(0, 5))
    assert rig.hang(1) == 0
    rig.answers.finish(1, Finished("r", FinishReason.STOP, USAGE))  # it has woken up
    assert [part.ids async for part in answer] == [(5,)]
    assert len(rig.sent) == 1


def test_an_answer_does_not_come_back_to_a_link_it_was_moved_from() -> None:
    """There it may be under way still: two of one name on one link could not be told apart."""
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    rig.hang(1)
    rig.hung.clear()
    assert rig.hang(2) == 0
    assert answer.link == 2
    rig.targets.append(target(3))
    assert rig.hang(2) == 1
    assert answer.link == 3


def test_a_hung_target_gets_nothing_new_while_there_is_another() -> None:
    rig = Rig(target(1), target(2))
    rig.hung.add(1)
    assert [rig.answers.open(asked(str(number))).link for number in range(3)] == [2, 2, 1]


async def test_the_end_of_the_text_is_not_said_twice() -> None:
    """The target was lost after what it held back and before it said that it had finished."""
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    rig.answers.tokens(1, tokens(0, 5))
    rig.answers.tokens(1, Tokens("r", 1, (), "rest", ()))
    rig.lose(1)
    rig.answers.tokens(2, Tokens("r", 1, (), "rest", ()))
    rig.answers.finish(2, Finished("r", FinishReason.STOP, USAGE))
    assert "".join([part.text async for part in answer]) == "xrest"


# One engine -----------------------------------------------------------------------------------------------------------


def engine(fingerprint: str, **fields: Any) -> Asked:
    return dataclasses.replace(asked(**fields), fingerprint=fingerprint)


def test_a_request_may_name_the_engine_that_is_to_answer() -> None:
    rig = Rig(target(1), target(2, fingerprint="e" * 64))
    assert rig.answers.open(engine("e" * 64)).link == 2
    with pytest.raises(NoTarget, match="no target of this engine fingerprint"):
        rig.answers.open(engine("0" * 64, request="2"))


def test_also_before_its_first_token_such_a_request_stays_with_that_engine() -> None:
    rig = Rig(target(1, fingerprint="e" * 64), target(2), target(3, fingerprint="e" * 64))
    answer = rig.answers.open(engine("e" * 64))
    rig.lose(answer.link)
    assert {answer.link} < {1, 3}


async def test_shutting_down_ends_what_is_under_way_and_takes_nothing_new() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    rig.answers.shut_down("maintenance")
    assert (await failure(answer)).message == "maintenance"
    assert isinstance(rig.sent[-1][1], Cancel)
    with pytest.raises(NoTarget, match="maintenance"):
        rig.answers.open(asked("2"))


async def test_a_target_that_says_nothing_is_a_timeout() -> None:
    rig = Rig(target(1))
    rig.answers = Answers(lambda: rig.targets, rig.send, stall_seconds=0.0)
    answer = rig.answers.open(asked())
    assert isinstance(await failure(answer), RequestTimeout)
