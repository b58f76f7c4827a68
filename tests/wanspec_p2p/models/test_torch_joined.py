from __future__ import annotations

from typing import Any

import pytest
import torch

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.torch_attention import ROW_MULTIPLE, Plan, Tail, exact_attention, fast_attention, make_plan
from wanspec_p2p.models.torch_cache import CacheShape, PassCache, SessionCache
from wanspec_p2p.models.torch_joined import JoinedCache, by_segment

HEADS, KV_HEADS, HEAD = 4, 2, 8
CPU = torch.device("cpu")
SHAPE = CacheShape(layers=1, heads=KV_HEADS, head=HEAD, dtype=torch.float32, device=CPU)
Layout = tuple[int, int, tuple[int, ...], int]
"""Committed slots, tokens, parents and held nodes of one segment's share of a pass."""
LAYOUTS: list[Layout] = [
    (0, 3, (), 0),
    (130, 1, (-1, 0, 0, -1), 0),
    (40, 0, (-1, -1, 0), 2),
    (7, 4, (), 0),
    (300, 1, (), 0),
]


def plan_of(layout: Layout, *, exact: bool) -> Plan:
    start, tokens, parents, held = layout
    return make_plan(
        start, tokens, parents, groups=HEADS // KV_HEADS, exact=exact, tail=Tail.SHARED, device=CPU, held=held
    )


def filled(layout: Layout, plan: Plan) -> PassCache:
    """The same keys and values in every cache made of one layout."""
    start, _, _, held = layout
    torch.manual_seed(start)
    cache = SessionCache(SHAPE)
    cache.reserve(plan.visible)
    cache.block[:, :, : start + held, : 2 * HEAD] = torch.randn(1, KV_HEADS, start + held, 2 * HEAD)
    return PassCache(cache, start + held, plan.visible)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("count", range(1, 1 + len(LAYOUTS)))
def test_each_segment_attends_as_if_it_were_alone(count: int, exact: bool) -> None:
    layouts = LAYOUTS[:count]
    plans = [plan_of(layout, exact=exact) for layout in layouts]
    real = sum(plan.real for plan in plans)
    rows = -(-real // ROW_MULTIPLE) * ROW_MULTIPLE
    torch.manual_seed(1)
    query, keys, values = (torch.randn(1, heads, rows, HEAD) for heads in (HEADS, KV_HEADS, KV_HEADS))
    attend = exact_attention if exact else fast_attention
    module = torch.nn.Identity()

    cache = JoinedCache([filled(*pair) for pair in zip(layouts, plans, strict=True)], [plan.real for plan in plans])
    seen = cache.update(keys, values, 0)
    joined, weights = by_segment(attend)(module, query, *seen, None, scaling=0.3, wanspec_plans=plans)

    assert (joined.shape, weights) == ((1, rows, HEADS, HEAD), None)
    assert torch.isfinite(joined).all()
    at = 0
    for layout, plan in zip(layouts, plans, strict=True):
        own = slice(at, at + plan.real)
        alone = filled(layout, plan).update(keys[:, :, own], values[:, :, own], 0)
        padded = torch.nn.functional.pad(query[:, :, own], (0, 0, 0, plan.rows - plan.real))
        expected, _ = attend(module, padded, *alone, None, scaling=0.3, wanspec_plan=plan)
        assert torch.allclose(joined[:, own], expected[:, : plan.real], atol=1e-6)
        at += plan.real


def test_rows_are_stored_behind_what_their_own_cache_holds_and_padding_is_not() -> None:
    caches = [SessionCache(SHAPE), SessionCache(SHAPE)]
    rows = torch.arange(1.0, 5.0).view(1, 1, 4, 1).expand(1, KV_HEADS, 4, HEAD)
    joined = JoinedCache([PassCache(caches[0], 5, 32), PassCache(caches[1], 2, 32)], [1, 2])
    keys, values = joined.update(rows, -rows, 0)
    assert [own.shape[1] for own in (*keys, *values)] == [32] * 4
    for cache, start, stored in zip(caches, (5, 2), ([1.0], [2.0, 3.0]), strict=True):
        slots = cache.block[0, 0, :, 0]
        assert slots[start : start + len(stored)].tolist() == stored
        assert int(slots.count_nonzero()) == len(stored)
        assert cache.block[0, 0, start : start + len(stored), HEAD].tolist() == [-value for value in stored]
    assert joined.get_seq_length() == 5


def attend_with(mask: torch.Tensor | None = None, **arguments: Any) -> None:
    rows = torch.randn(1, HEADS, ROW_MULTIPLE, HEAD)
    by_segment(exact_attention)(torch.nn.Identity(), rows, [], [], mask, scaling=0.3, **arguments)


@pytest.mark.parametrize("name", ["s_aux", "softcap", "position_bias", "attention_mask"])
def test_an_attention_that_is_asked_for_more_than_ours_computes_says_for_what(name: str) -> None:
    value = torch.zeros(HEADS)
    arguments = {"mask": value} if name == "attention_mask" else {name: value, "dropout": 0.0, "sliding_window": 9}
    with pytest.raises(
        ModelError, match=f"not supported: its attention asks for `{name}`, which ours does not compute"
    ):
        attend_with(wanspec_plans=[plan_of(LAYOUTS[0], exact=True)], **arguments)


def test_a_model_that_keeps_the_plans_from_its_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="does not hand its attention what a pass adds to the call"):
        attend_with()
