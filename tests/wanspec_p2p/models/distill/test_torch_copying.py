from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.wanspec_p2p.models.distill.conftest import dialogue
from wanspec_p2p.models.copying import MOST
from wanspec_p2p.models.distill import torch_copying
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.torch_copying import LENGTHS, PRIOR, fit_copying, likeliest_weights
from wanspec_p2p.models.repeats import LONGEST


def spoken(*ids: int, given: int = 0) -> Dialogue:
    """All but the first `given` tokens are an answer."""
    origins = np.full(len(ids), Origin.ANSWER, np.uint8)
    origins[:given] = Origin.GIVEN
    return dataclasses.replace(dialogue(len(ids)), ids=np.array(ids, np.int32), origins=origins)


def test_every_length_that_is_told_apart_has_a_group() -> None:
    assert LENGTHS[0] == 1 and LENGTHS[-1] == LONGEST


@pytest.mark.parametrize("true", [0.2, 0.7])
def test_the_weight_that_made_the_text_is_found(true: float) -> None:
    rng = np.random.default_rng(5)
    model, copy = rng.dirichlet(np.ones(9), 4000), rng.dirichlet(np.ones(9) / 4, 4000)
    copied = rng.random(4000) < true
    came = [rng.choice(9, p=(copy if c else model)[i]) for i, c in enumerate(copied)]
    chances = np.stack([model[range(4000), came], copy[range(4000), came]], axis=1)
    [weight] = likeliest_weights(chances, np.zeros(4000, np.int64), 1)
    assert weight == pytest.approx(true, abs=0.03)


def test_a_group_of_few_or_none_follows_the_one_before() -> None:
    chances = np.array([[0.5, 1.0]] * 400 + [[0.0, 1.0]])
    groups = np.array([0] * 400 + [2])
    first, second, third = likeliest_weights(chances, groups, 3)
    assert second == pytest.approx(first, abs=1e-4)
    assert first < third == pytest.approx((1 + PRIOR * first) / (1 + PRIOR), abs=1e-3)
    assert likeliest_weights(np.zeros((0, 2)), np.zeros(0, np.int64), 2) == (0.0, 0.0)


def test_a_model_is_never_silenced_and_a_token_nobody_foresaw_moves_nothing_up() -> None:
    [sure] = likeliest_weights(np.array([[0.0, 1.0]] * 100_000), np.zeros(100_000, np.int64), 1)
    assert sure == MOST
    [never] = likeliest_weights(np.zeros((50, 2)), np.zeros(50, np.int64), 1)
    assert never == 0.0


def test_a_text_that_repeats_itself_is_worth_copying_and_one_that_does_not_is_not(plain: Any) -> None:
    loop = fit_copying(plain, [spoken(*range(65, 75)), spoken(*[65, 66, 67, 68, 69] * 12)])
    assert loop is not None and min(loop.weights[LENGTHS.index(8) :]) > 0.6
    astray = [spoken(*(token for i in range(20) for token in (65, 70 + i))) for _ in range(2)]
    never = fit_copying(plain, astray)
    assert never is not None and max(never.weights) == 0.0


def test_only_answers_teach_and_without_a_match_there_is_nothing_to_learn(plain: Any) -> None:
    asked = spoken(*[65, 66] * 20, given=40)
    assert fit_copying(plain, []) is None
    assert fit_copying(plain, [asked, spoken(*range(30))]) is None


def test_at_most_so_many_dialogues_are_read(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_copying, "DIALOGUES", 1)
    assert fit_copying(plain, [spoken(1, 2, 3), spoken(1, 1, 1)]) is None
