from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from coordinator.openai_schema import Asked
from coordinator.records import PeerState
from coordinator.target_choice import MAX_RESUMES
from tests.support.answers_rig import Rig, asked, failure, target
from wanspec_p2p.errors import NoTarget, Overloaded, TargetLost, UnknownModel


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


def test_a_hung_target_gets_nothing_new_while_there_is_another() -> None:
    rig = Rig(target(1), target(2))
    rig.hung.add(1)
    assert [rig.answers.open(asked(str(number))).link for number in range(3)] == [2, 2, 1]


def engine(fingerprint: str, **fields: Any) -> Asked:
    return dataclasses.replace(asked(**fields), fingerprint=fingerprint)


def test_a_request_may_name_the_engine_that_is_to_answer() -> None:
    rig = Rig(target(1), target(2, fingerprint="e" * 64))
    assert rig.answers.open(engine("e" * 64)).link == 2
    with pytest.raises(NoTarget, match="no target of this engine fingerprint"):
        rig.answers.open(engine("0" * 64, request="2"))


def test_before_its_first_token_an_answer_may_go_to_any_target_of_the_model() -> None:
    rig = Rig(target(1), target(2, fingerprint="e" * 64))
    answer = rig.answers.open(asked())
    rig.lose(1)
    assert (answer.link, answer.model.fingerprint) == (2, "e" * 64)


def test_also_before_its_first_token_such_a_request_stays_with_that_engine() -> None:
    rig = Rig(target(1, fingerprint="e" * 64), target(2), target(3, fingerprint="e" * 64))
    answer = rig.answers.open(engine("e" * 64))
    rig.lose(answer.link)
    assert {answer.link} < {1, 3}


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


async def test_a_prompt_that_brings_targets_down_does_not_go_on_for_ever() -> None:
    rig = Rig(*(target(number) for number in range(1, 9)))
    answer = rig.answers.open(asked())
    for _ in range(MAX_RESUMES):
        rig.lose(answer.link)
    assert answer.resumes == MAX_RESUMES
    rig.lose(answer.link)
    assert isinstance(await failure(answer), TargetLost)
    assert len(rig.targets) == 8 - MAX_RESUMES - 1
