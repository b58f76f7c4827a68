from __future__ import annotations

import dataclasses

import orjson
import pytest

from wanspec_p2p.cli.demo_report import Report, Run
from wanspec_p2p.client.answers import Answer, Speculation, Usage
from wanspec_p2p.types import FinishReason, PeerId, TokenId

A, B = PeerId("a" * 32), PeerId("b" * 32)


def answer(*ids: TokenId) -> Answer:
    speculation = Speculation(rounds=2, accepted_per_round=0.5, target_draft_passes=0, won_by_peer={A: 1}, near_ties=1)
    usage = Usage(5, len(ids))
    return Answer("text", ids, (None,) * len(ids), FinishReason.LENGTH, usage, speculation, "m", "r", "s", "f")


def report(together: Answer, alone: Answer) -> Report:
    return Report(Run(together, 2.0), Run(alone, 1.0), {A: "ada", B: "grace"})


def test_equal_ids_are_identical() -> None:
    found = report(answer(1, 2, 3), answer(1, 2, 3))
    assert found.identical and found.first_difference is None


@pytest.mark.parametrize(
    ("together", "alone", "at"), [((1, 2), (1, 3), 1), ((1, 2, 3), (1, 2), 2), ((), (1,), 0), ((9, 2), (1, 2), 0)]
)
def test_the_first_difference_is_named(together: tuple[int, ...], alone: tuple[int, ...], at: int) -> None:
    found = report(answer(*together), answer(*alone))
    assert not found.identical and found.first_difference == at


def test_every_node_is_listed_by_name_also_one_that_won_nothing() -> None:
    assert report(answer(1), answer(1)).won_by_name == {"ada": 1, "grace": 0}


def test_the_json_has_the_documented_fields() -> None:
    found = report(answer(1, 2, 3), answer(1, 2, 3)).as_json()
    assert orjson.loads(orjson.dumps(found)) == found
    assert found["identical"] is True and found["first_difference"] is None
    assert (found["tokens"], found["rounds"], found["accepted_per_round"]) == (3, 2, 0.5)
    assert (found["target_draft_passes"], found["won_by_peer"]) == (0, {"ada": 1, "grace": 0})
    assert (found["tokens_per_second"], found["tokens_per_second_alone"]) == (1.5, 3.0)


def test_identical_text_with_other_ids_is_not_identical() -> None:
    assert not report(answer(1, 2), dataclasses.replace(answer(1, 2), token_ids=(1, 4))).identical
