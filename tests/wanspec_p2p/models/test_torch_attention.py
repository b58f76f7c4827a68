from __future__ import annotations

import random

import pytest
import torch

from wanspec_p2p.models.segments import tree_path
from wanspec_p2p.models.torch_attention import CHUNK, Plan, Tail, exact_attention, fast_attention, make_plan
from wanspec_p2p.models.torch_cache import CacheShape, PassCache, SessionCache

HEADS, KV_HEADS, HEAD = 6, 2, 8
CPU = torch.device("cpu")
SHAPE = CacheShape(layers=1, heads=KV_HEADS, head=HEAD, dtype=torch.float32, device=CPU)


def plan_of(
    start: int, tokens: int, parents: tuple[int, ...], tail: Tail = Tail.SHARED, exact: bool = True, held: int = 0
) -> Plan:
    return make_plan(start, tokens, parents, groups=HEADS // KV_HEADS, exact=exact, tail=tail, device=CPU, held=held)


def attend(
    start: int, tokens: int, parents: tuple[int, ...], tail: Tail, *, exact: bool = True, held: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random queries and keys through one pass: result (rows, heads, head), queries, keys and values by slot."""
    torch.manual_seed(start)
    cache = SessionCache(SHAPE)
    plan = plan_of(start, tokens, parents, tail, exact, held)
    cache.reserve(plan.visible)
    cache.block[:, :, : start + held, : 2 * HEAD] = torch.randn(1, KV_HEADS, start + held, 2 * HEAD)
    query = torch.randn(1, HEADS, plan.rows, HEAD)
    new = torch.randn(2, 1, KV_HEADS, plan.rows, HEAD)
    keys, values = PassCache(cache, start + held, plan.visible).update(new[0], new[1], 0)
    function = exact_attention if exact else fast_attention
    out, weights = function(torch.nn.Identity(), query, keys, values, None, scaling=HEAD**-0.5, wanspec_plan=plan)
    assert weights is None
    return out[0], query[0], keys, values[..., :HEAD]


def softmax_over(slots: list[int], query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The textbook formula in float64 for one row: (heads, head)."""
    groups = HEADS // KV_HEADS
    picked_keys = keys[:, slots].double().repeat_interleave(groups, 0)
    picked_values = values[:, slots].double().repeat_interleave(groups, 0)
    scores = torch.einsum("hd,hsd->hs", query.double(), picked_keys) * HEAD**-0.5
    return torch.einsum("hs,hsd->hd", scores.softmax(-1), picked_values)


def random_tree(size: int) -> tuple[int, ...]:
    draw = random.Random(size)
    return tuple(draw.randrange(-1, node) for node in range(size))


@pytest.mark.parametrize("tail", list(Tail))
@pytest.mark.parametrize(
    ("start", "tokens", "parents"),
    [
        (0, 1, ()),
        (0, 5, ()),
        (300, 1, ()),
        (100, 60, ()),
        (3, 2, (-1, 0, 0, -1, 1)),
        (CHUNK - 2, 1, (-1, 0, 1, 2, 1, -1)),
        (250, 3, random_tree(40)),
        (250, 3, random_tree(100)),
    ],
    ids=["first", "prompt", "decode", "prefill", "tree", "across", "wide", "too-wide-to-share"],
)
@pytest.mark.parametrize("exact", [True, False])
def test_every_row_attends_to_the_prefix_and_its_own_path(
    start: int, tokens: int, parents: tuple[int, ...], tail: Tail, exact: bool
) -> None:
    out, query, keys, values = attend(start, tokens, parents, tail, exact=exact)
    for row in range(tokens + len(parents)):
        before = list(range(start + min(row + 1, tokens)))
        path = [start + tokens + node for node in tree_path(parents, row - tokens)] if row >= tokens else []
        expected = softmax_over(before + path, query[:, row], keys, values)
        assert torch.allclose(out[row].double(), expected, atol=1e-5)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("tail", list(Tail))
@pytest.mark.parametrize(
    ("start", "held", "parents"),
    [
        (1, 2, (-1, 0, 1, 0, 3)),
        (CHUNK - 2, 3, (-1, 0, 1, 2, 0, -1)),
        (CHUNK, 2, (-1, -1, 1)),
        (250, 20, random_tree(28)),
        (250, 90, random_tree(98)),
        (250, 40, tuple(range(-1, 43))),
    ],
    ids=["few", "across", "at-a-chunk", "wide", "too-wide-to-share", "chain"],
)
@pytest.mark.parametrize("exact", [True, False])
def test_every_row_attends_to_the_held_nodes_of_its_own_path_alone(
    start: int, held: int, parents: tuple[int, ...], tail: Tail, exact: bool
) -> None:
    out, query, keys, values = attend(start, 0, parents, tail, exact=exact, held=held)
    for row in range(len(parents) - held):
        path = [start + node for node in tree_path(parents, held + row)]
        expected = softmax_over([*range(start), *path], query[:, row], keys, values)
        assert torch.allclose(out[row].double(), expected, atol=1e-5)
    assert torch.isfinite(out).all()


def test_held_nodes_count_as_positions_and_slots_but_not_as_rows() -> None:
    plan = plan_of(CHUNK - 2, 0, (-1, 0, 1, 0, 2), held=3)
    assert (plan.rows, plan.visible) == (4, 160)
    assert plan.positions.tolist() == [CHUNK - 1, CHUNK + 1, 0, 0]
    first, second = plan.spans
    assert first.chosen is not None and second.chosen is not None
    # Held: positions 126, 127 and 128; the rows: 127 and 129.
    assert first.chosen[CHUNK - 2 : CHUNK + 3].tolist() == [1, 1, 0, 1, 0]
    assert second.chosen[CHUNK - 2 : CHUNK + 3].tolist() == [0, 0, 1, 0, 1]
    assert plan_of(100, 0, random_tree(100), held=92).gather is not None


def test_rows_and_slots_are_padded_and_positions_follow_the_path() -> None:
    plan = plan_of(10, 2, (-1, 0, 0, -1))
    assert (plan.rows, plan.visible) == (8, 32)
    assert plan.positions.tolist() == [10, 11, 12, 13, 13, 12, 0, 0]


def test_a_chain_needs_no_choosing_and_a_tree_across_a_chunk_chooses_by_position() -> None:
    chain = plan_of(CHUNK - 2, 1, (-1, 0, 1))
    assert [(span.start, span.stop) for span in chain.spans] == [(0, CHUNK), (CHUNK, 160)]
    across = plan_of(CHUNK - 2, 1, (-1, 0, 0))
    first, second = across.spans
    assert first.chosen is not None and second.chosen is not None
    # Position 126 is the token, 127 its child, 128 the grandchildren.
    assert first.chosen[CHUNK - 2 : CHUNK + 2].tolist() == [1, 1, 0, 0]
    assert second.chosen[CHUNK - 2 : CHUNK + 2].tolist() == [0, 0, 1, 1]


def test_wide_trees_and_the_gathered_tail_copy_each_rows_own_slots_in_position_order() -> None:
    plan = plan_of(CHUNK + 1, 1, (-1, -1, 1), Tail.GATHERED)
    assert plan.gather is not None
    rows = [plan.gather.slots[row][plan.gather.valid[row] == 1].tolist() for row in range(4)]
    assert rows[3] == [CHUNK, CHUNK + 1, CHUNK + 3, CHUNK + 4]
    assert rows[1] == [CHUNK, CHUNK + 1, CHUNK + 2]
    assert plan_of(100, 1, random_tree(100)).gather is not None
