"""Where a draft of the target's own would add most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.allotment import Place
from wanspec_p2p.speculation.policy import places
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
        expanded: Collection[int] = (),
        warm: Collection[int] | None = None,
        runnable: Callable[[int], bool] = lambda node: True,
    ) -> list[Place]:
        return places(
            self.tree,
            self.chances.__getitem__,
            rows=rows,
            chances=CHANCES,
            expanded=expanded,
            warm=expanded if warm is None else warm,
            runnable=runnable,
        )


def nodes_of(found: list[Place]) -> tuple[int, ...]:
    return tuple(node for place in found for node in place.nodes)


def gain(found: list[Place]) -> float:
    return sum(chance for place in found for chance in place.chances)


def check(found: list[Place], nodes: tuple[int, ...], worth: float) -> None:
    assert nodes_of(found) == nodes
    assert gain(found) == pytest.approx(worth)


def test_with_nothing_drafted_the_root_gains_all_there_is_to_gain() -> None:
    check(Grown().found(), (ROOT,), MASS)


def test_a_place_is_worth_what_its_candidates_leave_open() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    check(grown.found(rows=1, warm={ROOT}), (node,), 0.5 * MASS)  # 0.45; the root leaves 0.4 open
    check(grown.found(rows=2, expanded={node}, warm={node}), (ROOT,), MASS - 0.5)


def test_what_comes_of_a_place_is_told_by_candidate() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    [below] = grown.found()
    assert below == ((ROOT, node), pytest.approx((0.5 * 0.6, 0.5 * 0.2, 0.5 * 0.1)))
    grown.chances[node] = 0.1
    assert grown.found()[0] == ((ROOT,), pytest.approx((MASS - 0.1,))), "which of its ranks were drafted is not known"


def test_candidates_that_hold_the_mass_leave_nothing() -> None:
    grown = Grown()
    grown.add(ROOT, 4, 0.6)
    grown.add(ROOT, 5, 0.3)
    assert grown.found(runnable=lambda node: False) == []


def test_a_place_that_was_run_gains_nothing_by_being_run_again() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    assert grown.found(expanded={ROOT, node}) == []
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
    check(grown.found(expanded={ROOT}), (above, below), 0.81 * MASS)
    check(grown.found(expanded={ROOT, above}), (below,), 0.81 * MASS)


def test_a_root_that_is_not_in_the_cache_has_a_row_of_the_pass() -> None:
    grown = Grown()
    nodes = [grown.add(ROOT, token, 0.2) for token in (4, 5, 6)]
    assert sorted(nodes_of(grown.found(rows=3))) == [ROOT, *nodes[:2]]
    assert nodes_of(grown.found(rows=1)) == (ROOT,)


def test_a_row_that_is_gone_is_not_asked_for_again() -> None:
    grown = Grown()
    node = grown.add(ROOT, 4, 0.5)
    assert grown.found(expanded=(), warm={ROOT, node}) == []


def test_what_needs_more_rows_than_are_left_is_passed_over() -> None:
    grown = Grown()
    above = grown.add(ROOT, 4, 0.8)
    grown.add(above, 5, 0.95)
    small = grown.add(ROOT, 6, 0.1)
    assert nodes_of(grown.found(rows=1, expanded={ROOT})) == (small,)
    assert grown.found(rows=0, expanded={ROOT}) == []


def test_candidates_of_one_place_share_one_chance() -> None:
    grown = Grown()
    nodes = [grown.add(ROOT, token, 0.9) for token in (4, 5, 6)]
    found = grown.found(expanded={ROOT})
    assert sorted(nodes_of(found)) == nodes
    assert gain(found) == pytest.approx(MASS, rel=0.01)


def test_what_is_next_to_impossible_is_not_run_however_much_room_there_is() -> None:
    grown = Grown()
    grown.add(grown.add(ROOT, 4, 0.005), 5, 0.005)
    grown.add(ROOT, 5, 0.00005)
    assert len(grown.found(rows=64, expanded={ROOT})) == 1


SHAPES = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 5), st.floats(0.0, 1.0)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(shape=SHAPES, rows=st.integers(0, 9), run=st.sets(st.integers(-1, 25)), ends=st.sets(st.integers(0, 25)))
def test_any_places_can_be_run_in_their_order_and_promise_no_more_than_is_open(
    shape: list[tuple[int, int, float]], rows: int, run: set[int], ends: set[int]
) -> None:
    grown = Grown()
    for parent, token, chance in shape:
        places = [ROOT, *grown.tree]
        grown.add(places[parent % len(places)], token, chance)
    warm = closed(grown.tree, run)
    found = grown.found(rows=rows, expanded=warm, runnable=lambda node: node not in ends)
    assert sum(place.rows for place in found) <= rows
    run_so_far = set(warm)
    for place in found:
        for node in place.nodes:
            assert node not in run_so_far
            if node != ROOT:
                assert grown.tree[node].parent in run_so_far
                assert ends.isdisjoint(ancestry(grown.tree, node))
            run_so_far.add(node)
        assert sum(place.chances) <= open_chance(grown.tree, grown.chances, place.nodes[-1]) + 1e-9
    worth = [sum(place.chances) for place in found]
    assert worth == sorted(worth, reverse=True)


def closed(tree: DraftTree, run: set[int]) -> set[int]:
    """Those of `run` that a cache can hold: nothing without what lies above it."""
    warm = run & {ROOT}
    for node in tree:
        if node in run and tree[node].parent in warm:
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
