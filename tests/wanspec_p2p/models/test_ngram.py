from __future__ import annotations

import random

import numpy as np
import pytest

from tests.support.growing_trees import GrowingTree
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.models.ngram import BEST_SCORE, CANDIDATES, SCORE_STEP, NgramModel, continuations
from wanspec_p2p.types import Segment


def model() -> NgramModel:
    return NgramModel(tokenizer="t" * 64, vocab_size=50, context=64, eos=(2,))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ([], []),
        ([1, 2], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 9, 1, 2], [9]),
        ([1, 2, 8, 1, 2, 9, 1, 2], [9, 8]),
        ([5, 1, 2, 8, 1, 2, 9, 5, 1, 2], [8, 9]),
        ([1, 1, 1, 1], [1]),
        ([7, 1, 2, 3, 4, 9, 8, 1, 2, 3, 4], [9]),
    ],
    ids=["empty", "short", "new", "repeat", "latest first", "longest first", "overlap", "four"],
)
def test_continuations_of_the_longest_then_latest_match(prefix: list[int], expected: list[int]) -> None:
    assert continuations(np.array(prefix, np.int64)) == expected


def test_at_most_a_few_candidates() -> None:
    prefix = [token for next_one in range(10, 20) for token in (1, 2, next_one)]
    assert len(continuations(np.array([*prefix, 1, 2]))) == CANDIDATES


async def test_rows_are_peaked_on_continuations_and_flat_without_an_opinion() -> None:
    drafter = model()
    [rows] = await drafter.forward([Segment("a", 0, (), (1, 2, 9, 1), (2, 3, 9), (-1, -1, 0))])
    assert (rows.shape, rows.dtype) == ((4, 50), np.float32)
    assert rows[1].argmax() == 9 and rows[1, 9] == BEST_SCORE and np.count_nonzero(rows[1]) == 1
    assert not rows[0].any() and not rows[2].any()
    assert rows[3].argmax() == 1
    [rows] = await drafter.forward([Segment("a", 4, (0,), (8, 1, 2))])
    assert [int(t) for t in np.argsort(-rows[0])[:2]] == [8, 9]
    assert rows[0, 8] - rows[0, 9] == SCORE_STEP


async def test_rows_of_a_grown_tree_are_those_of_a_fresh_prefix() -> None:
    drafter, fresh = NgramModel(tokenizer="t" * 64, vocab_size=3, context=999), 0
    tree = GrowingTree(random.Random(5), "grown", vocab_size=3)
    step = tree.start([1, 2, 1], 3)
    for _ in range(30):
        segment, prefixes = step
        [rows] = await drafter.forward([segment])
        for row, prefix in zip(rows, prefixes, strict=True):
            [[expected]] = await drafter.forward([Segment("fresh", 0, (), tuple(prefix))])
            assert np.array_equal(row, expected)
            fresh += bool(expected.any())
        step = tree.step(4)
    assert fresh > 50


async def test_caches_follow_the_rules_of_every_engine() -> None:
    drafter = model()
    await drafter.forward([Segment("a", 0, (), (1, 2))])
    await drafter.release("a")
    with pytest.raises(LocalProtocolError):
        await drafter.forward([Segment("a", 2, (), (1,))])
    await drafter.close()
    assert drafter.info.tokenizer == "t" * 64
    assert drafter.info.engine.startswith("wanspec-ngram")
