from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.growing_trees import GrowingTree
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.session_rows import PassModel
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.types import Segment


async def test_rows_follow_the_true_prefix_in_every_slot_of_a_tree() -> None:
    model = ScriptedModel(seed=1)
    [rows] = await model.forward([Segment("a", 0, (), (5, 6), tree=(7, 8, 9), parents=(-1, 0, -1))])
    expected = [(5, 6), (5, 6, 7), (5, 6, 7, 8), (5, 6, 9)]
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.stack([model.row(prefix) for prefix in expected]))


async def test_kept_nodes_and_cropped_positions_change_what_the_next_row_sees() -> None:
    model = ScriptedModel(seed=1)
    await model.forward([Segment("a", 0, (), (5, 6), tree=(7, 8, 9), parents=(-1, 0, -1))])
    [kept] = await model.forward([Segment("a", 2, (0, 1), (4,))])
    assert np.array_equal(kept[0], model.row((5, 6, 7, 8, 4)))
    [cropped] = await model.forward([Segment("a", 1, (), (3,))])
    assert np.array_equal(cropped[0], model.row((5, 3)))
    assert model.caches == {"a": (5, 3)}


@given(seed=st.integers(0, 2**32), passes=st.lists(st.integers(1, 9), max_size=25))
def test_rows_follow_the_true_prefix_however_a_tree_grows(seed: int, passes: list[int]) -> None:
    model, other = ScriptedModel(seed=1, vocab_size=8), PassModel(ScriptedModel(seed=1, vocab_size=8).row)
    tree = GrowingTree(random.Random(seed), "a", vocab_size=8)
    checked = 0

    async def run() -> None:
        nonlocal checked
        step = tree.start([1, 2], 3)
        for width in (*passes, 1):
            segment, prefixes = step
            [rows] = await model.forward([segment])
            assert np.array_equal(rows, np.stack([model.row(prefix) for prefix in prefixes]))
            assert np.array_equal(rows, np.stack(other.run(segment)))
            assert model.caches == {"a": tuple(tree.committed)}
            checked += len(rows)
            step = tree.step(width)

    asyncio.run(run())
    assert checked >= 4


@pytest.mark.parametrize(
    "segment",
    [
        Segment("a", 3, (), (1,)),
        Segment("a", 2, (1,), (1,)),
        Segment("a", 2, (0, 2), (1,)),
        Segment("a", 2, (5,), (1,)),
        Segment("a", 1, (0,), (1,)),
        Segment("a", 2, (), (256,)),
        Segment("a", 2, (), (1,), tree=(-1,), parents=(-1,)),
        Segment("a", 2, (), tuple([1] * 4095)),
        Segment("new", 1, (), (1,)),
    ],
    ids=["beyond", "no-root", "no-path", "no-node", "keep-and-crop", "id-high", "id-low", "context", "empty-cache"],
)
async def test_misuse_raises_and_leaves_the_cache_as_it_was(segment: Segment) -> None:
    model = ScriptedModel(seed=1)
    await model.forward([Segment("a", 0, (), (5, 6), tree=(7, 8, 9), parents=(-1, 0, -1))])
    with pytest.raises(LocalProtocolError):
        await model.forward([segment])
    assert model.caches == {"a": (5, 6)}
    [rows] = await model.forward([Segment("a", 2, (0,), (1,))])
    assert np.array_equal(rows[0], model.row((5, 6, 7, 1)))


async def test_a_batch_may_not_name_a_cache_twice() -> None:
    with pytest.raises(LocalProtocolError):
        await ScriptedModel(seed=1).forward([Segment("a", 0, (), (1,)), Segment("a", 0, (), (2,))])


@pytest.mark.parametrize(
    ("drift", "low", "high"), [(0.0, 1.0, 1.0), (0.1, 0.8, 0.95), (0.3, 0.5, 0.7), (1.0, 0.1, 0.3)]
)
def test_drift_lowers_agreement_with_the_target(drift: float, low: float, high: float) -> None:
    target, drafter = ScriptedModel(seed=1), ScriptedModel(seed=1, drift=drift)
    draw = random.Random(0)
    prefixes = [tuple(draw.randrange(256) for _ in range(4 + i % 9)) for i in range(300)]
    same = sum(int(target.row(prefix).argmax() == drafter.row(prefix).argmax()) for prefix in prefixes)
    assert low <= same / len(prefixes) <= high


async def test_the_hook_runs_before_the_pass_and_release_forgets() -> None:
    seen: list[int] = []

    async def hook(batch: Sequence[Segment]) -> None:
        seen.append(len(batch))

    model = ScriptedModel(seed=1, before_forward=hook)
    await model.forward([Segment("a", 0, (), (1,)), Segment("b", 0, (), (2,))])
    await model.release("a")
    await model.release("never seen")
    assert seen == [2]
    assert model.caches == {"b": (2,)}
    await model.close()
    assert model.closed


def test_bytes_survive_the_tokenizer() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("naïve ✓")) == "naïve ✓"
    assert tokenizer.decode(tokenizer.encode("✓")[:2]) == "�"
    assert tokenizer.decode(tokenizer.encode_chat([("user", "hi")])) == "<user>hi\n<assistant>"
    assert tokenizer.piece(65) == "A"
