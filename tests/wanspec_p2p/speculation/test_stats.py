"""Acceptance figures: who drafted what, what of it was verified, what of that was right."""

from __future__ import annotations

import pytest

from wanspec_p2p.speculation.stats import DrafterStats, SessionStats
from wanspec_p2p.speculation.tree import ROOT, DraftTree, Merge
from wanspec_p2p.speculation.verify import Candidates, Step
from wanspec_p2p.types import PeerId, SessionId

A, B = PeerId("a"), PeerId("b")


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
    assert dict(stats.histogram) == {1: 1}
    a, b = stats.of(A), stats.of(B)
    assert (a.verified, a.accepted, a.won) == (3, 1, 1)
    assert (b.verified, b.accepted, b.won) == (2, 1, 0)
    assert stats.won_by_peer == {A: 1}


def test_only_tokens_whose_parent_was_right_tell_about_their_drafter(tree: DraftTree) -> None:
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(9, 1, None)])
    assert stats.of(A).decisions == pytest.approx(1 * 0.95 + 1)  # 4 and 5; 6 hung off a wrong token
    assert stats.of(A).hits == pytest.approx(1 * 0.95)
    assert stats.of(B).decisions == pytest.approx(1 * 0.95 + 1)  # 4 and 7


def test_a_token_of_one_who_began_anew_is_still_its_origins(tree: DraftTree) -> None:
    tree.disown(A)
    stats = SessionStats()
    stats.verified_round(tree, CANDIDATES, [step(4, 0, 0), step(5, 1, 1), step(9, 2, None)])
    assert (stats.of(A).verified, stats.of(A).accepted, stats.of(A).won) == (2, 1, 2)
    assert (stats.of(B).verified, stats.of(B).accepted, stats.of(B).won) == (2, 1, 0)


def test_acceptance_begins_undecided_and_follows_what_happens() -> None:
    figures = DrafterStats()
    assert figures.acceptance == 0.5
    for _ in range(200):
        figures.decided(True)
    assert figures.acceptance > 0.98
    for _ in range(30):
        figures.decided(False)
    assert figures.acceptance < 0.25
    assert figures.decisions == pytest.approx(20.0, rel=0.01), "about the last twenty count"


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
