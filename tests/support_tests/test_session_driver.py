"""The driver must find what it is there to find: it is shown faults it has to report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.session_driver import Drive, drafters_first, seeded
from tests.support.session_peers import CreditAudit, HonestPeer, JunkPeer, LyingPeer, SilentPeer
from tests.support.session_rows import PassModel, SureTable, check_tree, decode_alone, prefix_hash, scripted_rows
from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.instructions import OpenDraft, SendDraft, SendVerdict
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import FinishReason, PeerId, Sampling, Segment, SessionId

SESSION = SessionId("s")
PROMPT = (1, 2)
SPEC = SessionSpec(SESSION, PROMPT, bytes(16), Sampling(), vocab_size=8, max_tokens=12)
ROWS = scripted_rows(3, 8)
PEER = PeerId("a")


def test_rows_follow_from_the_true_prefix_alone() -> None:
    assert np.array_equal(ROWS((1, 2, 3)), scripted_rows(3, 8)((9, 2, 3)))
    assert not np.array_equal(ROWS((1, 2, 3)), ROWS((2, 3)))
    assert not np.array_equal(ROWS((1, 2, 3)), scripted_rows(4, 8)((1, 2, 3)))
    assert not np.array_equal(ROWS((1, 2, 3)), scripted_rows(3, 8, drift=0.1)((1, 2, 3)))
    rounded = scripted_rows(3, 8, ties=True)((1, 2, 3))
    assert np.array_equal(rounded, np.round(rounded))


def test_drift_lowers_agreement_with_the_target() -> None:
    prefixes = [(i, j, k) for i in range(1) for j in range(8) for k in range(8)]

    def agreement(drift: float) -> float:
        rows = scripted_rows(3, 8, drift=drift)
        return float(np.mean([rows(p).argmax() == ROWS(p).argmax() for p in prefixes]))

    assert agreement(0.0) == 1.0
    assert 0.5 < agreement(0.2) < 1.0
    assert agreement(3.0) < 0.5


def test_a_pass_returns_the_row_of_every_slot_and_keeps_what_it_is_told() -> None:
    model = PassModel(ROWS)
    rows = model.run(Segment("c", 0, (), (1, 2), (3, 4, 5), (-1, 0, -1)))
    expected = [(1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 5)]
    assert all(np.array_equal(row, ROWS(prefix)) for row, prefix in zip(rows, expected, strict=True))
    model.run(Segment("c", 2, (0, 1), (6,)))
    assert model.cached == [1, 2, 3, 4, 6]
    model.run(Segment("c", 1, (), (7,)))
    assert model.cached == [1, 7]


@pytest.mark.parametrize(
    "segment",
    [
        Segment("c", 3, (), (1,)),
        Segment("c", 1, (0,), (1,)),
        Segment("c", 2, (1,), (1,)),
        Segment("c", 2, (2, 0), (1,)),
    ],
    ids=["beyond", "keep and crop", "no root", "no path"],
)
def test_a_pass_that_does_not_fit_its_cache_is_reported(segment: Segment) -> None:
    model = PassModel(ROWS)
    model.run(Segment("c", 0, (), (1, 2), (3, 4, 5), (-1, 0, -1)))
    with pytest.raises(AssertionError):
        model.run(segment)


def damage_parent(tree: DraftTree) -> None:
    tree[1].parent = ROOT


def damage_hash(tree: DraftTree) -> None:
    tree[1].hash = bytes(8)


def damage_length(tree: DraftTree) -> None:
    tree[0].length += 1


def damage_holders(tree: DraftTree) -> None:
    tree[1].holders.add(PeerId("b"))


def damage_children(tree: DraftTree) -> None:
    tree[0].children.clear()


def damage_token(tree: DraftTree) -> None:
    tree[1].token = 7


@pytest.mark.parametrize(
    "damage", [damage_parent, damage_hash, damage_length, damage_holders, damage_children, damage_token]
)
def test_a_damaged_tree_is_reported(damage: Callable[[DraftTree], None]) -> None:
    tree = DraftTree(SESSION, PROMPT)
    first, _ = tree.add(ROOT, 3, PEER)
    tree.add(first, 4, PEER)
    check_tree(tree, SESSION)
    damage(tree)
    with pytest.raises(AssertionError):
        check_tree(tree, SESSION)


def audit(window: Window) -> CreditAudit:
    return CreditAudit(SESSION, OpenDraft(PEER, PROMPT, window, 0))


def frame(
    base: tuple[int, ...], *tokens: int, parents: tuple[int, ...] = (), bases: tuple[tuple[int, ...], ...] = ()
) -> SendDraft:
    others = tuple((len(other), prefix_hash(SESSION, other)) for other in bases)
    return SendDraft(len(base), prefix_hash(SESSION, base), tokens, parents, (0,) * len(tokens), others)


def test_the_audit_counts_what_is_outstanding() -> None:
    window = Window(positions=3, tokens=4)
    seen = audit(window)
    seen.draft(frame(PROMPT, 3, 4))
    seen.draft(frame((*PROMPT, 3, 4), 5))
    assert (seen.most_positions, seen.most_tokens) == (3, 3)
    seen.verdict(SendVerdict(PEER, 4, (6,), prefix_hash(SESSION, (*PROMPT, 3, 6)), window))
    seen.draft(frame((*PROMPT, 3, 6), 1, 2, 7))
    assert (seen.most_positions, seen.most_tokens) == (3, 3)


@pytest.mark.parametrize(
    ("window", "frames", "complaint"),
    [
        (Window(2, 9), [frame(PROMPT, 3, 4, 5)], "window of positions"),
        (Window(9, 2), [frame(PROMPT, 3, 4, 5, parents=(-1, -1, -1))], "window of tokens"),
        (Window(9, 9), [frame(PROMPT, 3), frame(PROMPT, 3)], "twice"),
        (Window(9, 9), [frame(PROMPT, 3, 3, parents=(-1, -1))], "twice"),
        (Window(9, 9), [frame(PROMPT, 3, 4, parents=(-1, 1))], "a later one"),
        (
            Window(2, 9),
            [frame(PROMPT, 3, 4), frame(PROMPT, 5, 6, parents=(-1, -2), bases=((*PROMPT, 3, 4),))],
            "positi",
        ),
    ],
)
def test_the_audit_reports_a_drafter_beyond_its_credit(window: Window, frames: list[SendDraft], complaint: str) -> None:
    seen = audit(window)
    with pytest.raises(AssertionError, match=complaint):
        for each in frames:
            seen.draft(each)


def test_the_audit_follows_a_frame_to_all_its_bases() -> None:
    seen = audit(Window(positions=9, tokens=9))
    seen.draft(frame(PROMPT, 3, 4, parents=(-1, -1)))
    seen.draft(frame((*PROMPT, 3), 5, 6, parents=(-1, -2), bases=((*PROMPT, 4),)))
    assert (seen.most_positions, seen.most_tokens) == (2, 4)
    seen.verdict(SendVerdict(PEER, 3, (), prefix_hash(SESSION, (*PROMPT, 4)), Window(9, 9)))
    seen.draft(frame((*PROMPT, 4, 6), 7))
    assert (seen.most_positions, seen.most_tokens) == (2, 4)


@pytest.mark.parametrize("base", [(1, 3), (*PROMPT, 7)])
def test_the_audit_reports_a_base_that_was_never_there(base: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        audit(Window(9, 9)).draft(frame(base, 3))
    with pytest.raises(ValueError, match="not enough values"):
        audit(Window(9, 9)).draft(frame(PROMPT, 3, 4, parents=(-1, -2), bases=(base,)))


def test_a_sure_drafter_drafts_one_chain() -> None:
    drive = Drive(SPEC, ROWS, drafters_first)
    peer = HonestPeer(SPEC, ROWS, table=SureTable())
    drive.join("sure", peer)
    drive.run(until=lambda: drive.target.stats.rounds == 1)
    assert peer.session is not None
    paths = [peer.session.tree.path(node) for node in peer.session.tree]
    assert [len(path) for path in paths] == list(range(1, len(paths) + 1))


def test_a_target_with_a_drafter_of_its_own_is_driven_too() -> None:
    drive = Drive(SPEC, ROWS, seeded(4), local=ROWS)
    assert drive.run() == decode_alone(SPEC, ROWS)
    assert drive.target.stats.local_passes > 0
    assert drive.target.stats.rounds < SPEC.max_tokens


def test_every_schedule_gives_the_answer_of_the_target_alone() -> None:
    alone = decode_alone(SPEC, ROWS)
    assert len(alone) == SPEC.max_tokens
    for pick in (drafters_first, lambda count: 0, seeded(1), seeded(2), seeded(3)):
        drive = Drive(SPEC, ROWS, pick)
        peer = HonestPeer(SPEC, scripted_rows(3, 8, drift=0.2))
        drive.join("honest", peer)
        drive.join("liar", LyingPeer(SPEC, alone))
        drive.join("junk", JunkPeer(SPEC, 5))
        assert drive.run() == alone
        assert (drive.finished, peer.abandoned) == (FinishReason.LENGTH, None)


def test_a_liar_is_never_right_and_junk_is_noticed() -> None:
    alone = decode_alone(SPEC, ROWS)
    drive = Drive(SPEC, ROWS, drafters_first)
    drive.join("liar", LyingPeer(SPEC, alone))
    drive.join("junk", JunkPeer(SPEC, 5, frames=9))
    drive.run()
    liar, junk = drive.target.stats.of(PeerId("liar")), drive.target.stats.of(PeerId("junk"))
    assert liar.verified > 0
    assert liar.accepted == 0
    assert junk.unknown > 0
    assert junk.surplus > 0


def test_copies_are_duplicates_and_delays_make_drafts_late() -> None:
    drive = Drive(SPEC, ROWS, drafters_first)
    drive.join("late", HonestPeer(SPEC, ROWS), copies=2, delay=2)
    drive.run()
    figures = drive.target.stats.of(PeerId("late"))
    assert figures.late > 0
    assert figures.drafted % 2 == 0


def test_cancelling_ends_the_drive_and_closes_the_drafters() -> None:
    drive = Drive(SPEC, ROWS, seeded(4))
    peer = SilentPeer()
    drive.join("silent", peer)
    drive.run(until=lambda: len(drive.tokens) >= 3)
    drive.cancel()
    drive.run()
    assert drive.finished is FinishReason.CANCELLED
    assert type(peer.received[-1]).__name__ == "CloseDraft"


def test_decoding_alone_goes_on_from_what_is_committed() -> None:
    alone = decode_alone(SPEC, ROWS)
    assert decode_alone(dataclasses.replace(SPEC, committed=tuple(alone[:5])), ROWS) == alone
