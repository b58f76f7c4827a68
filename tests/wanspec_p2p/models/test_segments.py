from __future__ import annotations

import pytest

from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.models.segments import CachedTokens, check_batch, tree_depths, tree_path
from wanspec_p2p.types import Segment

PARENTS = (-1, 0, -1, 1, 2)


def test_a_path_runs_from_the_root_down_and_depths_count_positions() -> None:
    assert tree_path(PARENTS, 3) == (0, 1, 3)
    assert tree_path(PARENTS, 2) == (2,)
    assert tree_depths(PARENTS) == [1, 2, 1, 3, 2]


def test_apply_crops_keeps_and_appends() -> None:
    cache = CachedTokens()
    cache.apply(Segment("a", 0, (), (1, 2), tree=(3, 4, 5, 6, 7), parents=PARENTS))
    cache.apply(Segment("a", 2, (0, 1), (9,)))
    assert cache.tokens == [1, 2, 3, 4, 9]
    cache.apply(Segment("a", 1, (), (8,)))
    assert cache.tokens == [1, 8]


def test_held_nodes_stay_provisional_and_are_numbered_before_the_tree() -> None:
    cache = CachedTokens()
    cache.apply(Segment("a", 0, (), (1, 2), tree=(3, 4, 5, 6, 7), parents=PARENTS))
    promoted = Segment("a", 2, (0,), (), tree=(8, 9), parents=(1, -1), held=(1, 3))
    cache.check(promoted, vocab_size=16, context=6)
    cache.apply(promoted)
    assert cache.tokens == [1, 2, 3]
    assert (cache.tree, cache.parents) == ((4, 6, 8, 9), (-1, 0, 1, -1))
    assert [cache.path(node) for node in range(4)] == [[4], [4, 6], [4, 6, 8], [9]]
    assert cache.row_paths(promoted) == [[4, 6, 8], [9]]
    # The old root stays where nothing is kept; the tokens of the next pass end what was held.
    grown = Segment("a", 3, (), (), tree=(10,), parents=(0,), held=(0, 3))
    cache.check(grown, vocab_size=16, context=6)
    cache.apply(grown)
    assert cache.row_paths(grown) == [[4, 10]]
    last = Segment("a", 3, (0, 2), (11,), tree=(12,), parents=(-1,))
    cache.apply(last)
    assert cache.tokens == [1, 2, 3, 4, 10, 11]
    assert cache.row_paths(last) == [[], [12]]


@pytest.mark.parametrize(
    ("segment", "complaint"),
    [
        (Segment("a", 3, (), (1,)), "holds 2 positions"),
        (Segment("a", 1, (0,), (1,)), "crop or keep"),
        (Segment("a", 2, (7,), (1,)), "none with index 7"),
        (Segment("a", 2, (0, 2), (1,)), "no path"),
        (Segment("a", 2, (), (16,)), "vocabulary"),
        (Segment("a", 2, (), (1,), (-1,), (-1,)), "vocabulary"),
        (Segment("a", 2, (), (1,) * 7), "ends at 8"),
        (Segment("a", 2, (0,), (1,) * 5, (1,), (-1,)), "ends at 8"),
        (Segment("a", 1, (), (), (1,), (-1,), held=(0,)), "crop or hold"),
        (Segment("a", 2, (), (), (1,), (-1,), held=(5,)), "none with index 5"),
        (Segment("a", 2, (), (), (1,), (-1,), held=(-1,)), "none with index -1"),
        (Segment("a", 2, (), (), (1,), (-1,), held=(0, 3)), "held node 3 hangs below neither"),
        (Segment("a", 2, (0,), (), (1,), (-1,), held=(1, 2)), "held node 2 hangs below neither"),
        (Segment("a", 2, (), (), (1,) * 4, (2, 3, 4, 5), held=(0, 1, 3)), "reaches position 9"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused_and_changes_nothing(segment: Segment, complaint: str) -> None:
    cache = CachedTokens()
    cache.apply(Segment("a", 0, (), (1, 2), tree=(3, 4, 5, 6, 7), parents=PARENTS))
    with pytest.raises(LocalProtocolError, match=complaint):
        cache.check(segment, vocab_size=16, context=8)
    assert cache.tokens == [1, 2]
    cache.check(Segment("a", 2, (0, 1, 3), (1, 1, 1)), vocab_size=16, context=8)
    cache.check(Segment("a", 2, (0,), (), (1,) * 3, (1, 2, 3), held=(1, 3)), vocab_size=16, context=8)


def test_a_batch_names_each_cache_once_and_unknown_caches_are_empty() -> None:
    with pytest.raises(LocalProtocolError, match="twice"):
        check_batch([Segment("a", 0, (), (1,))] * 2, {}, vocab_size=16, context=8)
    with pytest.raises(LocalProtocolError, match="holds 0 positions"):
        check_batch([Segment("a", 1, (), (1,))], {}, vocab_size=16, context=8)
