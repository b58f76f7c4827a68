from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from wanspec_p2p.models.torch_cache import CacheShape, SessionCache
from wanspec_p2p.models.torch_parts import PASS_ROWS, TREE_ROWS, Part, Work, parts_of, together

SHAPE = CacheShape(layers=1, heads=1, head=2, dtype=torch.float32, device=torch.device("cpu"))


def cache_of(length: int = 0, held: int = 0) -> SessionCache:
    cache = SessionCache(SHAPE)
    cache.length, cache.held = length, held
    return cache


def shapes(parts: Sequence[Part]) -> list[tuple[int, int, int, int, int]]:
    """Start, rows, tokens, held and wanted of each."""
    return [(part.start, len(part.ids), part.tokens, part.held, part.wanted) for part in parts]


def test_a_prompt_is_cut_into_passes_and_its_last_row_is_wanted() -> None:
    parts = list(parts_of(Work(cache_of(), range(2 * PASS_ROWS + 5))))
    assert shapes(parts) == [
        (0, PASS_ROWS, PASS_ROWS, 0, 0),
        (PASS_ROWS, PASS_ROWS, PASS_ROWS, 0, 0),
        (2 * PASS_ROWS, 5, 5, 0, 1),
    ]
    assert [token for part in parts for token in part.ids] == list(range(2 * PASS_ROWS + 5))
    assert shapes(list(parts_of(Work(cache_of(7), range(PASS_ROWS))))) == [(7, PASS_ROWS, PASS_ROWS, 0, 1)]


def test_every_row_of_a_chain_is_wanted_whichever_pass_it_is_in() -> None:
    chain = range(PASS_ROWS)
    assert shapes(list(parts_of(Work(cache_of(10), [1, 2, 3], chain, range(-1, PASS_ROWS - 1))))) == [
        (10, PASS_ROWS, PASS_ROWS, 0, PASS_ROWS - 2),
        (10 + PASS_ROWS, 3, 3, 0, 3),
    ]


def test_few_tokens_run_with_the_tree_and_many_before_it() -> None:
    tree, parents = [7, 8, 9], (-1, -1, 0)
    [together_with_it] = parts_of(Work(cache_of(), range(TREE_ROWS - 3), tree, parents))
    assert shapes([together_with_it]) == [(0, TREE_ROWS, TREE_ROWS - 3, 0, 4)]
    before, last = parts_of(Work(cache_of(), range(TREE_ROWS - 2), tree, parents))
    assert shapes([before, last]) == [(0, TREE_ROWS - 3, TREE_ROWS - 3, 0, 0), (TREE_ROWS - 3, 4, 1, 0, 4)]
    assert (before.parents, last.parents) == ((), parents)


def test_held_nodes_lie_before_the_first_row_and_count_as_committed_in_a_chain() -> None:
    [tree] = parts_of(Work(cache_of(20, 2), (), [5, 6], (-1, -1, 0, 1)))
    assert shapes([tree]) == [(22, 2, 0, 2, 2)]
    [chain] = parts_of(Work(cache_of(20, 2), (), [5, 6], (-1, 0, 1, 2)))
    assert shapes([chain]) == [(22, 2, 2, 0, 2)]
    assert chain.parents == ()


@pytest.mark.parametrize(
    ("rows", "most", "groups"),
    [
        ([1, 1, 1], 0, [[1], [1], [1]]),
        ([1, 1, 1], 4, [[1, 1, 1]]),
        ([2, 2, 1], 4, [[2, 2], [1]]),
        ([1, 9, 1, 2], 4, [[1], [9], [1, 2]]),
        ([9, 1], 4, [[9], [1]]),
        ([], 4, []),
    ],
)
def test_parts_share_a_pass_in_order_up_to_its_rows(rows: list[int], most: int, groups: list[list[int]]) -> None:
    parts = [Part(cache_of(), 0, range(count), count, (), 0, 1) for count in rows]
    found = list(together(parts, most))
    assert [[len(part.ids) for part in group] for group in found] == groups
    assert [part for group in found for part in group] == parts
