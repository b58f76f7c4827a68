from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.errors import EngineError, LocalProtocolError, ModelError
from wanspec_p2p.models.copying import COPYING_FILE, MOST, CopyingModel, CopyWeights, mix, read_weights
from wanspec_p2p.models.repeats import Repeat, RepeatIndex
from wanspec_p2p.models.segments import CachedTokens
from wanspec_p2p.types import Segment

WEIGHTS = CopyWeights((1, 2, 4), (0.1, 0.5, 0.9))
VOCABULARY = 12


def law(row: NDArray[np.floating]) -> NDArray[np.float64]:
    weights = np.exp(row.astype(np.float64) - float(row.max()))
    return np.asarray(weights / weights.sum())


def expected(model: ScriptedModel, prefix: Sequence[int], weights: CopyWeights = WEIGHTS) -> NDArray[np.float64]:
    """The mixture after `prefix`, from its definition."""
    index = RepeatIndex()
    index.extend(prefix)
    mixed = law(model.row(prefix))
    if (repeat := index.repeat()) is not None:
        copy = np.zeros(len(mixed))
        for token, share in repeat.shares.items():
            copy[token] = share
        mixed = (1 - weights.of(repeat.length)) * mixed + weights.of(repeat.length) * copy
    return mixed


def test_weights_are_those_of_the_longest_length_that_is_reached() -> None:
    assert [WEIGHTS.of(length) for length in (1, 2, 3, 4, 32)] == [0.1, 0.5, 0.5, 0.9, 0.9]
    assert CopyWeights((2,), (0.5,)).of(1) == 0


@pytest.mark.parametrize(
    ("lengths", "weights"),
    [((), ()), ((1, 2), (0.5,)), ((0, 1), (0.5, 0.5)), ((2, 2), (0.5, 0.5)), ((1,), (1.0,)), ((1,), (-0.1,)),
     ((1,), (float("nan"),))],
)  # fmt: skip
def test_weights_that_mean_nothing_are_refused(lengths: tuple[int, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="lengths|weights"):
        CopyWeights(lengths, weights)


def test_the_file_beside_a_model_is_read_and_may_be_absent(tmp_path: Path) -> None:
    assert read_weights(tmp_path) is None
    (tmp_path / COPYING_FILE).write_text('{"lengths": [1, 3], "weights": [0.25, 0.5]}')
    assert read_weights(tmp_path) == CopyWeights((1, 3), (0.25, 0.5))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"lengths": [1]}', '{"lengths": [1], "weights": [2]}', '{"lengths": [1], "weights": ["a"]}',
     '{"lengths": [1], "weights": [0.5], "more": 1}', "\x00\ud800"],
)  # fmt: skip
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / COPYING_FILE).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=r"copying\.json cannot be used .*: put the drafter's own back") as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_files_place_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / COPYING_FILE).mkdir()
    with pytest.raises(ModelError, match=r"copying\.json cannot be used"):
        read_weights(tmp_path)


@pytest.mark.parametrize("weight", [0.001, 0.3, MOST])
def test_a_mixed_row_stands_for_the_mixture(weight: float) -> None:
    row = np.random.default_rng(1).normal(0, 5, 300).astype(np.float32)
    before = law(row)
    copy = np.zeros(300)
    copy[[7, 9]] = 0.75, 0.25
    mix(row, Repeat(3, {7: 0.75, 9: 0.25}), weight)
    assert row.dtype == np.float32
    np.testing.assert_allclose(law(row), (1 - weight) * before + weight * copy, rtol=1e-4, atol=1e-9)


def test_without_a_weight_a_row_is_left_bit_for_bit() -> None:
    row = np.arange(5, dtype=np.float32)
    mix(row, Repeat(1, {2: 1.0}), 0.0)
    assert row.tolist() == [0, 1, 2, 3, 4]


def test_a_token_the_model_rules_out_can_be_copied_and_a_broken_row_stays_broken() -> None:
    row = np.array([-np.inf, 0.0, 1.0], np.float32)
    mix(row, Repeat(1, {0: 1.0}), 0.5)
    assert law(row)[0] == pytest.approx(0.5)
    broken = np.array([np.nan, 0.0, 1.0], np.float32)
    mix(broken, Repeat(1, {1: 1.0}), 0.5)
    assert np.isnan(broken[0]) and broken[1:].tolist() == [0, 1]


async def test_every_row_of_a_tree_copies_from_prefix_and_path() -> None:
    plain = ScriptedModel(1, vocab_size=VOCABULARY)
    model = CopyingModel(ScriptedModel(1, vocab_size=VOCABULARY), WEIGHTS)
    prefix, tree, parents = (1, 2, 3, 4, 1, 2), (3, 5, 4, 3, 1, 2), (-1, -1, 0, 1, 2, 4)
    [rows] = await model.forward([Segment("a", 0, (), prefix, tree, parents)])
    paths = [(), (3,), (5,), (3, 4), (5, 3), (3, 4, 1), (3, 4, 1, 2)]
    for row, path in zip(rows, paths, strict=True):
        np.testing.assert_allclose(law(row), expected(plain, (*prefix, *path)), rtol=1e-4)
    assert law(rows[0]).argmax() == 3


async def test_passes_crop_keep_and_hold_as_the_cache_does() -> None:
    rng = random.Random(3)
    plain = ScriptedModel(2, vocab_size=VOCABULARY)
    model = CopyingModel(ScriptedModel(2, vocab_size=VOCABULARY), WEIGHTS)
    cache = CachedTokens()
    segment = Segment("a", 0, (), tuple(rng.randrange(4) for _ in range(20)))
    for _ in range(40):
        [rows] = await model.forward([segment])
        cache.apply(segment)
        assert len(rows) == segment.rows
        for row, path in zip(rows, cache.row_paths(segment), strict=True):
            np.testing.assert_allclose(law(row), expected(plain, [*cache.tokens, *path]), rtol=1e-4)
        segment = next_segment(rng, cache)


def next_segment(rng: random.Random, cache: CachedTokens) -> Segment:
    """Of every kind: cropped, kept, held, with and without a tree."""
    length, node = len(cache.tokens), len(cache.tree) - 1
    if cache.tree and rng.random() < 0.3:
        held = tuple(range(len(cache.tree)))
        return Segment("a", length, (), (), (rng.randrange(4),), (rng.choice((-1, *held)),), held)
    keep: tuple[int, ...] = ()
    if cache.tree and rng.random() < 0.6:
        while node != -1:
            keep, node = (node, *keep), cache.parents[node]
    elif rng.random() < 0.5:
        length -= rng.randint(1, 5)
    tree = tuple(rng.randrange(4) for _ in range(rng.randint(0, 4)))
    parents = tuple(rng.randint(-1, i - 1) for i in range(len(tree)))
    return Segment("a", length, keep, (rng.randrange(4),), tree, parents)


async def test_sessions_do_not_copy_from_each_other() -> None:
    plain = ScriptedModel(1, vocab_size=VOCABULARY)
    model = CopyingModel(ScriptedModel(1, vocab_size=VOCABULARY), WEIGHTS)
    prefixes = {"a": (1, 2, 3, 1), "b": (1, 5, 6, 1)}
    rows = await model.forward([Segment(name, 0, (), prefix) for name, prefix in prefixes.items()])
    for row, prefix in zip(rows, prefixes.values(), strict=True):
        np.testing.assert_allclose(law(row[0]), expected(plain, prefix), rtol=1e-4)


async def test_rows_that_are_the_models_own_are_not_changed() -> None:
    kept = ScriptedModel(1, vocab_size=VOCABULARY).row((1, 1))[None]

    class Keeping(ScriptedModel):
        async def forward(self, batch: Sequence[Segment]) -> list[NDArray[np.float32]]:
            return [kept]

    before = kept.copy()
    [rows] = await CopyingModel(Keeping(1, vocab_size=VOCABULARY), WEIGHTS).forward([Segment("a", 0, (), (1, 1))])
    assert (kept == before).all() and (rows != before).any()


async def test_what_the_model_would_refuse_changes_nothing() -> None:
    inner = ScriptedModel(1, vocab_size=VOCABULARY)
    model = CopyingModel(inner, WEIGHTS)
    await model.forward([Segment("a", 0, (), (1, 2))])
    for refused in (Segment("a", 3, (), (1,)), Segment("b", 0, (), (VOCABULARY,))):
        with pytest.raises(LocalProtocolError):
            await model.forward([Segment("c", 0, (), (1,)), refused])
    assert inner.caches == {"a": (1, 2)} and len(inner.batches) == 1
    [rows] = await model.forward([Segment("a", 2, (), (1,))])
    np.testing.assert_allclose(law(rows[0]), expected(ScriptedModel(1, vocab_size=VOCABULARY), (1, 2, 1)), rtol=1e-4)


@pytest.mark.parametrize("error", [EngineError("broke"), asyncio.CancelledError()])
async def test_after_a_pass_that_failed_its_caches_are_gone_and_others_stay(error: BaseException) -> None:
    inner = ScriptedModel(1, vocab_size=VOCABULARY)
    model = CopyingModel(inner, WEIGHTS)
    await model.forward([Segment("a", 0, (), (1, 2)), Segment("b", 0, (), (1, 2))])

    async def fail(batch: Sequence[Segment]) -> None:
        raise error

    inner.before_forward = fail
    with pytest.raises(type(error)):
        await model.forward([Segment("a", 2, (), (1,))])
    inner.before_forward = None
    with pytest.raises(LocalProtocolError):
        await model.forward([Segment("a", 3, (), (1,))])
    [rows] = await model.forward([Segment("b", 2, (), (1,))])
    assert rows.shape == (1, VOCABULARY)


async def test_releasing_and_closing_reach_the_model() -> None:
    inner = ScriptedModel(1, vocab_size=VOCABULARY)
    model = CopyingModel(inner, WEIGHTS)
    await model.forward([Segment("a", 0, (), (1, 2))])
    await model.release("a")
    await model.release("never seen")
    assert inner.caches == {}
    with pytest.raises(LocalProtocolError):
        await model.forward([Segment("a", 2, (), (1,))])
    await model.close()
    assert inner.closed


def test_it_is_known_as_the_model_but_its_logits_are_others() -> None:
    inner = ScriptedModel(1)
    info = CopyingModel(inner, WEIGHTS).info
    assert info.engine == "scripted 1 / copying 1"
    assert info == dataclasses.replace(inner.info, engine=info.engine, fingerprint=info.fingerprint)
    other = CopyingModel(inner, CopyWeights((1,), (0.1,))).info
    assert len({inner.info.fingerprint, info.fingerprint, other.fingerprint}) == 3
