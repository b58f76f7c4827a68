"""What is worth verifying: the likeliest candidates, parents first, up to a width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.policy import Policy, select
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.verify import Candidates
from wanspec_p2p.types import PeerId, SessionId

A, B = PeerId("a"), PeerId("b")
ROUND = 1  # not one in which candidates below the floor get their chance


def tree_of(*branches: tuple[PeerId, tuple[int, ...]]) -> DraftTree:
    tree = DraftTree(SessionId("s"), (1,))
    for peer, tokens in branches:
        at = ROOT
        for token in tokens:
            at, _ = tree.add(at, token, peer)
    return tree


def chosen(
    tree: DraftTree,
    acceptance: Mapping[PeerId, float],
    *,
    round_number: int = ROUND,
    positions: int = 99,
    **policy: Any,
) -> Candidates:
    return select(tree, acceptance.__getitem__, Policy(**policy), round_number, positions)


def test_a_chain_comes_whole_when_there_is_room() -> None:
    tree = tree_of((A, (4, 5, 6)))
    candidates = chosen(tree, {A: 0.9})
    assert (candidates.tokens, candidates.parents) == ((4, 5, 6), (-1, 0, 1))
    assert [tree[node].token for node in candidates.nodes] == [4, 5, 6]


def test_the_width_keeps_the_likeliest() -> None:
    tree = tree_of((A, (4, 5, 6)), (B, (7, 8)))
    candidates = chosen(tree, {A: 0.5, B: 0.9}, width=3)
    # 4: 0.5. 7: what 4 leaves, 0.5 x 0.9 = 0.45. 8: 0.405. 5: 0.25.
    assert (candidates.tokens, candidates.parents) == ((4, 7, 8), (-1, -1, 1))


def test_a_node_is_as_likely_as_its_best_drafter_says() -> None:
    tree = tree_of((A, (4,)), (B, (4,)), (A, (5,)))
    assert chosen(tree, {A: 0.1, B: 0.95}, width=1).tokens == (4,)
    assert chosen(tree, {A: 0.1, B: 0.95}, floor=0.01).tokens == (4,)  # 5 has 0.05 x 0.1


def test_equal_chances_go_to_the_older_node() -> None:
    tree = tree_of((A, (4,)), (A, (5,)))
    assert chosen(tree, {A: 0.5}, width=1).tokens == (4,)


def test_nothing_goes_deeper_than_there_are_positions() -> None:
    tree = tree_of((A, (4, 5, 6)))
    assert chosen(tree, {A: 0.9}, positions=2).tokens == (4, 5)
    assert chosen(tree, {A: 0.9}, positions=0) == Candidates((), (), ())


def test_below_the_floor_one_candidate_gets_its_chance_every_so_many_rounds() -> None:
    tree = tree_of((A, (4, 5)))
    assert chosen(tree, {A: 0.01}).tokens == ()
    assert chosen(tree, {A: 0.01}, round_number=32).tokens == (4,)
    assert chosen(tree, {A: 0.01}, round_number=9, retry_rounds=3).tokens == (4,)


def test_nodes_of_those_who_began_anew_are_judged_by_their_origin() -> None:
    tree = tree_of((A, (4,)))
    tree.disown(A)
    assert chosen(tree, {A: 0.9}).tokens == (4,)


@settings(max_examples=150, deadline=None)
@given(
    branches=st.lists(
        st.tuples(st.sampled_from([A, B]), st.lists(st.integers(0, 3), min_size=1, max_size=5)), max_size=6
    ),
    rates=st.tuples(st.floats(0.001, 0.99), st.floats(0.001, 0.99)),
    width=st.integers(0, 9),
    positions=st.integers(0, 6),
    round_number=st.integers(0, 40),
)
def test_any_selection_is_a_tree_within_its_bounds(
    branches: list[tuple[PeerId, list[int]]],
    rates: tuple[float, float],
    width: int,
    positions: int,
    round_number: int,
) -> None:
    tree = tree_of(*((peer, tuple(tokens)) for peer, tokens in branches))
    acceptance = dict(zip((A, B), rates, strict=True))
    candidates = chosen(tree, acceptance, width=width, positions=positions, round_number=round_number)
    assert len(candidates.nodes) == len(set(candidates.nodes)) <= width
    for i, (node_id, token, parent) in enumerate(
        zip(candidates.nodes, candidates.tokens, candidates.parents, strict=True)
    ):
        node = tree[node_id]
        assert node.token == token
        assert parent < i
        assert node.parent == (ROOT if parent < 0 else candidates.nodes[parent])
        assert node.length - tree.committed_len <= positions


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
