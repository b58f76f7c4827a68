"""Acceptance figures: who drafted what, what of it was verified, what of that was right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.protocol.checks import check
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts
from wanspec_p2p.speculation.local import LOCAL
from wanspec_p2p.speculation.sampling import Choice
from wanspec_p2p.speculation.stats import DrafterStats, SessionStats
from wanspec_p2p.speculation.tree import ROOT, DraftTree, Merge
from wanspec_p2p.speculation.verify import Candidates, Step, walk
from wanspec_p2p.types import PeerId, SessionId

A, B = PeerId("a"), PeerId("b")
ROUNDS = 2


def step(token: int, row: int, candidate: int | None, margin: float = 1.0) -> Step:
    return Step(token, margin, row, candidate)


@pytest.fixture
def tree() -> DraftTree:
    """4 5 6 by A, 4 by B too, and 7 by B beside it; node ids 0 to 3."""
    tree = DraftTree(SessionId("s"), (1,))
    four, _ = tree.add(ROOT, 4, A)
    five, _ = tree.add(four, 5, A)
    tree.add(five, 6, A)
    tree.add(ROOT, 4, B)
    tree.add(ROOT, 7, B)
    return tree


CANDIDATES = Candidates((0, 1, 2, 3), (4, 5, 6, 7), (-1, 0, 1, -1))


def test_a_round_credits_everyone_who_was_right_and_the_first_with_the_win(tree: DraftTree) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(9, 1, None)])
    assert (stats.rounds, stats.verified, stats.accepted, stats.accepted_per_round) == (1, 4, 1, 1.0)
    assert stats.accepted_by_length == {3: (0, 1, 0, 0)}, "4 5 6 is three tokens deep"
    a, b = stats.of(A), stats.of(B)
    assert (a.verified, a.accepted, a.won) == (3, 1, 1)
    assert (b.verified, b.accepted, b.won) == (2, 1, 0)
    assert stats.won_by_peer == {A: 1}


def test_what_a_drafter_was_told_of_is_no_merit_of_its_own(tree: DraftTree) -> None:
    for node in (0, 1):
        tree[node].told |= {B}
    tree.add(0, 5, B)
    stats = SessionStats()
    brought = stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(5, 1, 1), step(9, 2, None)])
    assert brought == {A: 2}
    assert (stats.of(A).accepted, stats.of(A).by_depth) == (2, ((1, 1), (1, 1), (1, 0)))
    assert (stats.of(B).accepted, stats.of(B).by_depth) == (0, ((1, 0),)), "7 was its own, and wrong"
    assert stats.of(B).acceptance == 1.0, "how far it may run ahead goes by what it says, wherever it has it from"


def test_only_tokens_whose_parent_was_right_tell_about_their_drafter(tree: DraftTree) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(9, 1, None)])
    assert stats.of(A).decisions == pytest.approx(1 * 0.95 + 1)  # 4 and 5; 6 hung off a wrong token
    assert stats.of(A).hits == pytest.approx(1 * 0.95)


def test_several_candidates_for_one_position_are_one_decision(tree: DraftTree) -> None:
    """A drafter that names alternatives is not held for wrong because only one of them can be right."""
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(7, 0, 3), step(9, 4, None)])
    assert (stats.of(B).decisions, stats.of(B).hits) == (1.0, 1.0)  # 4 was wrong and 7 right
    assert (stats.of(A).decisions, stats.of(A).hits) == (1.0, 0.0)
    stats.verified_round(tree, CANDIDATES, [step(9, 0, None)])
    assert (stats.of(B).decisions, stats.of(B).hits) == (1 * 0.95 + 1, 1 * 0.95)


def test_positions_are_counted_by_their_depth_when_they_were_decided(tree: DraftTree) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(9, 1, None)])
    assert stats.of(A).by_depth == ((1, 1), (1, 0)), "6 hung off a wrong token and tells nothing"
    tree.commit([4, 9])
    eight, _ = tree.add(ROOT, 8, A)
    two, _ = tree.add(eight, 2, A)
    stats.verified_round(
        tree, Candidates((eight, two), (8, 2), (-1, 0)), [step(8, 0, 0), step(2, 1, 1), step(3, 2, None)]
    )
    assert stats.of(A).by_depth == ((2, 2), (2, 1))
    assert stats.of(PeerId("c")).by_depth == ()


@pytest.mark.parametrize(("token", "candidate", "right"), [(4, 0, 1), (7, 3, 1), (9, None, 0)])
def test_several_candidates_for_one_position_are_one_position(
    tree: DraftTree, token: int, candidate: int | None, right: int
) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(token, 0, candidate)])
    assert stats.of(B).by_depth == ((1, right),), "4 and 7 are two tries at one token"


def test_a_depth_nothing_was_decided_at_is_a_zero() -> None:
    figures = DrafterStats()
    figures.judged(3, True)
    assert figures.by_depth == ((0, 0), (0, 0), (1, 1))


@given(
    places=st.lists(st.tuples(st.integers(-1, 20), st.integers(0, 2), st.sampled_from("abc")), max_size=20),
    truth=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    gone=st.booleans(),
)
def test_whatever_is_drafted_the_counts_agree(places: list[tuple[int, int, str]], truth: list[int], gone: bool) -> None:
    """A receipt that contradicted itself would cost the target its link to the coordinator."""
    tree, stats = DraftTree(SessionId("s"), (1,)), SessionStats()
    for parent, token, drafter in places:
        tree.add(parent if parent in tree else ROOT, token, PeerId(drafter))
        stats.arrived(PeerId(drafter), Merge(added=ROUNDS))
    if gone:
        tree.disown(A)
    nodes = tuple(tree)
    index = {ROOT: -1} | {node: i for i, node in enumerate(nodes)}
    candidates = Candidates(nodes, tuple(tree[n].token for n in nodes), tuple(index[tree[n].parent] for n in nodes))
    rows = [np.array([truth[min(tree.place(node)[0], 6) - 1]], dtype=np.float32) for node in (ROOT, *nodes)]
    steps = walk(candidates, rows, lambda row, path: Choice(int(row[0]), 1.0), (), 6)
    for _ in range(ROUNDS):
        stats.verified_round(tree, candidates, steps)
    for figures in stats.drafters.values():
        assert sum(right for _, right in figures.by_depth) == figures.accepted
        counts = (figures.drafted, figures.verified, figures.accepted, figures.won)
        receipt = Receipt("r", A, "j", "s", *counts, by_depth=figures.by_depth)
        assert check(Receipts("b", (receipt,))) is None


def test_a_token_of_one_who_began_anew_is_still_its_origins(tree: DraftTree) -> None:
    tree.disown(A)
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(5, 1, 1), step(9, 2, None)])
    assert (stats.of(A).verified, stats.of(A).accepted, stats.of(A).won) == (2, 1, 2)
    assert (stats.of(B).verified, stats.of(B).accepted, stats.of(B).won) == (2, 1, 0)


def test_the_targets_own_drafter_is_in_no_race() -> None:
    tree = DraftTree(SessionId("s"), (1,))
    four, _ = tree.add(ROOT, 4, LOCAL)
    five, _ = tree.add(four, 5, A)
    for node, token, drafter in ((ROOT, 4, A), (four, 5, LOCAL)):
        tree.add(node, token, drafter)
    stats = SessionStats()
    candidates = Candidates((four, five), (4, 5), (-1, 0))
    stats.verified_round(tree, candidates, [step(4, 0, 0), step(5, 1, 1), step(9, 2, None)])
    assert (stats.of(LOCAL).accepted, stats.of(LOCAL).won) == (2, 1)
    assert stats.accepted == 2 == stats.accepted_by_length[2].index(1)
    assert stats.won_by_peer == {A: 1}
    assert stats.lost == 1, "the node's 4; the target's 5 is no loss"
    assert set(stats.peers) == {A}


def test_acceptance_begins_with_trust_and_follows_what_happens() -> None:
    figures = DrafterStats()
    assert figures.acceptance == 1.0
    figures.decided(False)
    assert figures.acceptance > 0.6, "one that went wrong is not yet a reason to wait for the next"
    for _ in range(200):
        figures.decided(True)
    assert figures.acceptance > 0.98
    for _ in range(30):
        figures.decided(False)
    assert figures.acceptance < 0.3
    assert figures.decisions == pytest.approx(20.0, rel=0.01), "about the last twenty count"


def test_whoever_is_not_heard_of_is_trusted_again(tree: DraftTree) -> None:
    """Or credit that is too small for its distance would stay so: nothing would arrive in time to be decided."""
    stats = SessionStats()
    for _ in range(30):
        stats.of(A).decided(False)
    assert stats.of(A).acceptance < 0.2
    for _ in range(60):
        stats.verified_round(tree, Candidates((), (), ()), [step(9, 0, None)])
    assert stats.of(A).acceptance > 0.6


def test_arrivals_add_up() -> None:
    stats = SessionStats()
    stats.arrived(A, Merge(added=3, duplicate=2, late=1, unknown=4, surplus=5))
    stats.arrived(B, Merge(late=2))
    a = stats.of(A)
    assert (a.drafted, a.late, a.unknown, a.surplus) == (15, 1, 4, 5)
    assert stats.late == 3


def test_near_ties_are_counted(tree: DraftTree) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0, margin=1e-5), step(9, 1, None, margin=2e-4)])
    assert stats.near_ties == 1


def test_before_the_first_round_nothing_is_divided() -> None:
    assert SessionStats().accepted_per_round == 0.0


def test_what_nodes_bring_of_late_is_their_share() -> None:
    tree = DraftTree(SessionId("s"), (1,))
    four, _ = tree.add(ROOT, 4, A)
    five, _ = tree.add(four, 5, LOCAL)
    candidates = Candidates((four, five), (4, 5), (-1, 0))
    stats = SessionStats()
    assert stats.remote_share == 0.0, "nobody is relied on before the first token"
    stats.verified_round(tree, candidates, [step(4, 0, 0), step(5, 1, 1), step(9, 2, None)])
    assert stats.remote_share == pytest.approx(1 / 3), "half of it, were there more than two"
    for _ in range(100):
        stats.verified_round(tree, candidates, [step(4, 0, 0), step(8, 1, None)])
    assert 0.9 < stats.remote_share < 1.0
    own = DraftTree(SessionId("s"), (1,))
    six, _ = own.add(ROOT, 6, LOCAL)
    for _ in range(40):
        stats.verified_round(own, Candidates((six,), (6,), (-1,)), [step(6, 0, 0), step(9, 1, None)])
    assert stats.remote_share < 0.15, "who brings nothing any more is not relied on"
