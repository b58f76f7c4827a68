"""Where a draft of the target's own would add most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.policy import Expansion, expansion
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import PeerId, SessionId

CHANCES = (0.6, 0.2, 0.1)
MASS = sum(CHANCES)


class Grown:
    """A tree of nodes with chances of their own."""

    def __init__(self) -> None:
        self.tree = DraftTree(SessionId("s"), (1,))
        self.chances: dict[int, float] = {}

    def add(self, parent: int, token: int, chance: float) -> int:
        node, _ = self.tree.add(parent, token, PeerId("a"))
        self.chances.setdefault(node, chance)
        return node

    def found(
        self,
        *,
        rows: int = 8,
        width: int = 63,
        row_price: float = 0.0,
        floor: float = 0.0,
        expanded: Collection[int] = (),
        warm: Collection[int] | None = None,
        runnable: Callable[[int], bool] = lambda node: True,
    ) -> Expansion:
        return expansion(
            self.tree,
            self.chances.__getitem__,
            rows=rows,
            chances=CHANCES,
            width=width,
            row_price=row_price,
            floor=floor,
            expanded=expanded,
            warm=expanded if warm is None else warm,
            runnable=runnable,
        )


def check(found: Expansion, nodes: tuple[int, ...], gain: float) -> None:
    assert found.nodes == nodes
    assert found.gain == pytest.approx(gain)


def test_with_nothing_drafted_the_root_gains_all_there_is_to_gain() -> None:
    check(Grown().found(), (), MASS)


def test_a_place_is_worth_what_its_candidates_leave_open() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    check(grown.found(rows=1), (node,), 0.5 * MASS)  # 0.45; the root leaves 0.4 open
    check(grown.found(rows=2), (node,), 0.5 * MASS + MASS - 0.5)


def test_candidates_gain_only_what_fits_into_the_verification_with_them() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    every = (0.5, 0.5 * 0.6, 0.5 * 0.2, 0.5 * 0.1)
    for width in range(1, 5):
        check(grown.found(width=width, expanded={ROOT}), (node,), sum(every[:width]) - 0.5)
    check(grown.found(width=0, expanded={ROOT}), (node,), 0.0)


def test_each_candidate_costs_its_row() -> None:
    check(Grown().found(row_price=0.15), (), (0.6 - 0.15) + (0.2 - 0.15))
    check(Grown().found(row_price=0.6), (), 0.0)


def test_a_place_that_is_worth_less_than_its_row_is_left_alone() -> None:
    grown = Grown()
    likely, _ = grown.add(ROOT, 5, 0.4), grown.add(ROOT, 6, 0.3)
    check(grown.found(expanded={ROOT}, floor=0.3), (likely,), 0.4 * MASS)


def test_candidates_that_hold_the_mass_leave_nothing() -> None:
    grown = Grown()
    grown.add(ROOT, 4, 0.6)
    grown.add(ROOT, 5, 0.3)
    assert grown.found(runnable=lambda node: False) == Expansion((), 0.0)


def test_a_place_that_was_run_gains_nothing_by_being_run_again() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    assert grown.found(expanded={ROOT, node}) == Expansion((), 0.0)
    check(grown.found(expanded={ROOT}), (node,), 0.5 * MASS)


def test_the_likeliest_places_come_first() -> None:
    grown = Grown()
    grown.add(ROOT, 4, 0.2)
    likely, little = grown.add(ROOT, 5, 0.4), grown.add(ROOT, 6, 0.3)
    check(grown.found(rows=2, expanded={ROOT}), (likely, little), 0.7 * MASS)


def test_nothing_follows_what_ends_the_answer() -> None:
    grown = Grown()
    end, other = grown.add(ROOT, 0, 0.6), grown.add(ROOT, 4, 0.3)
    grown.add(end, 5, 0.9)
    found = grown.found(expanded={ROOT}, runnable=lambda node: node != end)
    check(found, (other,), 0.3 * MASS)


def test_what_lies_above_and_is_not_in_the_cache_is_run_too() -> None:
    grown = Grown()
    above = grown.add(ROOT, 4, 0.9)
    below = grown.add(above, 5, 0.9)
    assert grown.found(expanded={ROOT}).nodes == (above, below)
    assert grown.found(expanded={ROOT}).gain == pytest.approx(0.81 * MASS)
    assert grown.found(expanded={ROOT, above}).nodes == (below,)


def test_what_needs_more_rows_than_are_left_is_passed_over() -> None:
    grown = Grown()
    above = grown.add(ROOT, 4, 0.8)
    grown.add(above, 5, 0.95)
    small = grown.add(ROOT, 6, 0.1)
    assert grown.found(rows=1, expanded={ROOT}).nodes == (small,)
    assert grown.found(rows=0, expanded={ROOT}) == Expansion((), 0.0)


def test_candidates_of_one_place_share_one_chance() -> None:
    grown = Grown()
    nodes = [grown.add(ROOT, token, 0.9) for token in (4, 5, 6)]
    found = grown.found(expanded={ROOT})
    assert found.nodes == tuple(nodes)
    assert found.gain == pytest.approx(MASS, rel=0.01)


def test_what_is_next_to_impossible_is_not_run_however_much_room_there_is() -> None:
    grown = Grown()
    grown.add(grown.add(ROOT, 4, 0.005), 5, 0.005)
    grown.add(ROOT, 5, 0.00005)
    assert len(grown.found(rows=64, expanded={ROOT}).nodes) == 1


SHAPES = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 5), st.floats(0.0, 1.0)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(shape=SHAPES, rows=st.integers(0, 9), run=st.sets(st.integers(-1, 25)), ends=st.sets(st.integers(0, 25)))
def test_any_expansion_can_be_run_and_is_worth_no_more_than_its_places(
    shape: list[tuple[int, int, float]], rows: int, run: set[int], ends: set[int]
) -> None:
    grown = Grown()
    for parent, token, chance in shape:
        places = [ROOT, *grown.tree]
        grown.add(places[parent % len(places)], token, chance)
    warm = closed(grown.tree, run)
    found = grown.found(rows=rows, expanded=warm, runnable=lambda node: node not in ends)
    assert len(found.nodes) <= rows
    assert not warm & set(found.nodes)
    for i, node in enumerate(found.nodes):
        parent = grown.tree[node].parent
        assert parent == ROOT or parent in warm or parent in found.nodes[:i]
        assert ends.isdisjoint(ancestry(grown.tree, node))
    worth = {place: open_chance(grown.tree, grown.chances, place) for place in (*found.nodes, ROOT)}
    assert 0.0 <= found.gain <= sum(worth.values()) + 1e-9


def closed(tree: DraftTree, run: set[int]) -> set[int]:
    """Those of `run` that a cache can hold: nothing without what lies above it."""
    warm = run & {ROOT}
    for node in tree:
        if node in run and (tree[node].parent == ROOT or tree[node].parent in warm):
            warm.add(node)
    return warm


def ancestry(tree: DraftTree, node: int) -> list[int]:
    nodes = [node]
    while (node := tree[node].parent) != ROOT:
        nodes.append(node)
    return nodes


def open_chance(tree: DraftTree, chances: Mapping[int, float], place: int) -> float:
    """No more than this is the answer's token after `place` still to be drafted."""
    if place == ROOT:
        return MASS
    likely = 1.0
    for node in ancestry(tree, place):
        likely *= chances[node]
    return likely * MASS
