from __future__ import annotations

import pytest

from tests.support.answers_rig import USAGE, Rig, asked, failure, target, tokens
from wanspec_p2p.errors import ContextTooLong, NoTarget, TargetLost
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished
from wanspec_p2p.types import FinishReason


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


async def test_shutting_down_ends_what_is_under_way_and_takes_nothing_new() -> None:
    rig = Rig(target(1), target(2))
    answer = rig.answers.open(asked())
    rig.answers.shut_down("maintenance")
    assert (await failure(answer)).message == "maintenance"
    assert isinstance(rig.sent[-1][1], Cancel)
    with pytest.raises(NoTarget, match="maintenance"):
        rig.answers.open(asked("2"))
