from __future__ import annotations

import random

from tests.support.growing_trees import GrowingTree


def test_a_promotion_names_the_path_holds_what_is_below_it_and_drops_the_rest() -> None:
    tree = GrowingTree(random.Random(0), "a", vocab_size=9, deep=1.0)
    segment, rows = tree.start([1, 2], 3)
    assert (segment.length, segment.tokens, segment.parents) == (0, (1, 2), (-1, 0, 1))
    assert rows == [[1, 2, *segment.tree[:depth]] for depth in range(4)]
    grown, more = tree.grow(1)
    assert (grown.length, grown.held, grown.parents, grown.tokens) == (2, (0, 1, 2), (2,), ())
    assert more == [[1, 2, *segment.tree, *grown.tree]]
    promoted, last = tree.promote(1, 2)
    assert (promoted.length, promoted.keep, promoted.held, promoted.parents) == (2, (0, 1), (2, 3), (1,))
    assert last == [[*more[0], *promoted.tree]]
    assert tree.committed == [1, 2, *segment.tree[:2]] and tree.deepest == 7
    cropped, _ = tree.crop(1, 3, 0)
    assert (cropped.length, cropped.keep, cropped.tokens, cropped.held) == (1, (), (), ())


def test_a_deep_tree_ends_at_the_context() -> None:
    tree = GrowingTree(random.Random(0), "a", vocab_size=9, deep=1.0, context=4)
    _, rows = tree.start([1, 2], 5)
    assert [len(row) for row in rows] == [2, 3, 4, 3, 4, 3]
