"""What is worth verifying: the likeliest candidates, parents first, up to a width."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.policy import LocalDrafting, Policy, select
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.verify import Candidates
from wanspec_p2p.types import PeerId, SessionId

A, B = PeerId("a"), PeerId("b")


def tree_of(*branches: tuple[PeerId, tuple[int, ...]]) -> DraftTree:
    tree = DraftTree(SessionId("s"), (1,))
    for peer, tokens in branches:
        at = ROOT
        for token in tokens:
            at, _ = tree.add(at, token, peer)
    return tree


def chosen(
    tree: DraftTree,
    beliefs: Mapping[PeerId, float],
    *,
    floor: float = 0.0,
    retry: bool = False,
    positions: int = 99,
    width: int = 63,
    stop_tokens: tuple[int, ...] = (),
) -> Candidates:
    """Every token is believed as much as whoever brought it first."""
    return select(
        tree,
        lambda node: beliefs[tree[node].origin],
        width=width,
        floor=floor,
        retry=retry,
        positions=positions,
        stop_tokens=stop_tokens,
    )


def test_a_chain_comes_whole_when_there_is_room() -> None:
    tree = tree_of((A, (4, 5, 6)))
    candidates = chosen(tree, {A: 0.9})
    assert (candidates.tokens, candidates.parents) == ((4, 5, 6), (-1, 0, 1))
    assert [tree[node].token for node in candidates.nodes] == [4, 5, 6]


def test_no_path_goes_beyond_a_token_that_ends_the_answer() -> None:
    tree = tree_of((A, (4, 5, 6, 7)), (A, (8, 9)))
    assert sorted(chosen(tree, {A: 0.9}, stop_tokens=(5, 9)).tokens) == [4, 5, 8, 9]


def test_the_width_keeps_the_likeliest() -> None:
    tree = tree_of((A, (4, 5, 6)), (B, (7, 8)))
    candidates = chosen(tree, {A: 0.3, B: 0.6}, width=3)
    # 7: 0.6. 8: 0.36. 4: 0.3. 5: 0.09.
    assert (candidates.tokens, candidates.parents) == ((7, 8, 4), (-1, 0, -1))


def test_what_is_believed_of_one_places_candidates_adds_up_to_less_than_one() -> None:
    """Only one of them can be right, however sure two drafters are of theirs."""
    tree = tree_of((A, (4, 5)), (B, (7,)))
    assert chosen(tree, {A: 0.9, B: 0.9}, floor=0.49).tokens == (4, 7)  # a half each, and 5 nine tenths of that
    assert chosen(tree, {A: 0.9, B: 0.9}, floor=0.51).tokens == ()
    assert chosen(tree, {A: 0.9, B: 0.05}, floor=0.8).tokens == (4, 5), "where they do, each keeps its own"


def test_equal_chances_go_to_the_older_node() -> None:
    tree = tree_of((A, (4,)), (A, (5,)))
    assert chosen(tree, {A: 0.5}, width=1).tokens == (4,)


def test_nothing_goes_deeper_than_there_are_positions() -> None:
    tree = tree_of((A, (4, 5, 6)))
    assert chosen(tree, {A: 0.9}, positions=2).tokens == (4, 5)
    assert chosen(tree, {A: 0.9}, positions=0) == Candidates((), (), ())


def test_a_candidate_less_likely_than_its_row_is_worth_is_left_out() -> None:
    tree = tree_of((A, (4, 5, 6)))
    assert chosen(tree, {A: 0.5}, floor=0.25).tokens == (4, 5)
    assert chosen(tree, {A: 0.5}, floor=0.26).tokens == (4,)


def test_one_candidate_below_the_floor_gets_its_chance_where_there_is_a_retry() -> None:
    tree = tree_of((A, (4, 5)), (B, (6,)))
    assert chosen(tree, {A: 0.01, B: 0.005}, floor=0.1).tokens == ()
    assert chosen(tree, {A: 0.01, B: 0.005}, floor=0.1, retry=True).tokens == (4,)
    assert chosen(tree, {A: 0.01, B: 0.5}, floor=0.1, retry=True).tokens == (6, 4)


def test_nodes_of_those_who_began_anew_are_still_candidates() -> None:
    tree = tree_of((A, (4,)))
    tree.disown(A)
    assert chosen(tree, {A: 0.9}).tokens == (4,)


@settings(max_examples=150, deadline=None)
@given(
    branches=st.lists(
        st.tuples(st.sampled_from([A, B]), st.lists(st.integers(0, 3), min_size=1, max_size=5)), max_size=6
    ),
    rates=st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)),
    width=st.integers(0, 9),
    positions=st.integers(0, 6),
    floor=st.sampled_from([0.0, 0.01, 0.3, 2.0]),
    retry=st.booleans(),
)
def test_any_selection_is_a_tree_within_its_bounds(
    branches: list[tuple[PeerId, list[int]]],
    rates: tuple[float, float],
    width: int,
    positions: int,
    floor: float,
    retry: bool,
) -> None:
    tree = tree_of(*((peer, tuple(tokens)) for peer, tokens in branches))
    beliefs = dict(zip((A, B), rates, strict=True))
    candidates = chosen(tree, beliefs, width=width, positions=positions, floor=floor, retry=retry)
    assert len(candidates.nodes) == len(set(candidates.nodes)) <= width
    most: list[float] = []  # that each may be believed: siblings can only take from it
    for i, (node_id, token, parent) in enumerate(
        zip(candidates.nodes, candidates.tokens, candidates.parents, strict=True)
    ):
        node = tree[node_id]
        assert node.token == token
        assert parent < i
        assert node.parent == (ROOT if parent < 0 else candidates.nodes[parent])
        assert node.length - tree.committed_len <= positions
        most.append(beliefs[node.origin] * (1.0 if parent < 0 else most[parent]))
    assert sum(chance < floor for chance in most) <= retry


@pytest.mark.parametrize(
    ("acceptance", "positions"), [(0.0001, 2), (0.1, 2), (0.35, 4), (0.5, 6), (0.8, 16), (1.0, 16)]
)
def test_a_drafter_may_run_as_far_ahead_as_its_path_has_a_chance(acceptance: float, positions: int) -> None:
    policy = Policy(window=Window(positions=16, tokens=32), floor=0.02)
    assert policy.credit(acceptance) == Window(positions, 2 * positions)


def test_credit_stays_within_the_window_of_the_operator() -> None:
    assert Policy(window=Window(positions=1, tokens=1)).credit(0.5) == Window(1, 1)
    assert Policy(window=Window(positions=0, tokens=0)).credit(0.5) == Window(0, 0)
    assert Policy(window=Window(positions=3, tokens=2)).credit(0.9) == Window(3, 2)


def test_a_local_pass_is_held_the_dearer_the_more_nodes_bring() -> None:
    drafting = LocalDrafting(price=0.2, reliance=0.5)
    assert [drafting.dearer(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.35, 0.8])
