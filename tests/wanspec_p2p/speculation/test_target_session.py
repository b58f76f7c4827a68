"""One generation as the target sees it, instruction by instruction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.session_driver import turn_of_one
from tests.support.session_rows import check_tree, prefix_hash
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.calibration import quantised
from wanspec_p2p.speculation.contribution import MOST_CROSSED
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    DrafterJoined,
    DrafterLeft,
    LocalDrafted,
    LocalFailed,
    ModelFailed,
    ModelFree,
    Outlook,
    Started,
    TargetEvent,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    AnnounceVerdict,
    CloseDraft,
    Committed,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunLocalPass,
    RunPass,
    SendVerdict,
    TargetInstruction,
    TokenScores,
)
from wanspec_p2p.speculation.local import Reach
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.sampling import logprobs
from wanspec_p2p.speculation.target_session import (
    MAX_CHILDREN,
    RECENT_WINDOWS,
    TRANSITIONS,
    SessionSpec,
    TargetSession,
    TargetState,
)
from wanspec_p2p.speculation.tree import ROOT
from wanspec_p2p.types import FinishReason, PeerId, Sampling, Segment, SessionId

SESSION = SessionId("5e5510")
PROMPT = (1, 2, 3)
STOP = 0
VOCABULARY = 20
WINDOW = Window(positions=6, tokens=9)
A, B = PeerId("a"), PeerId("b")
SPEC = SessionSpec(SESSION, PROMPT, bytes(16), Sampling(), VOCABULARY, max_tokens=50, stop_tokens=(STOP,))
AT = 0.0


def session_of(width: int = 7, **changes: Any) -> TargetSession:
    return TargetSession(dataclasses.replace(SPEC, **changes), Policy(width=width, window=WINDOW))


def says(*tokens: int) -> Verified:
    """Logits of a pass after whose rows the target says these, two ahead of everything else."""
    rows = np.zeros((len(tokens), VOCABULARY), dtype=np.float32)
    rows[np.arange(len(tokens)), tokens] = 2.0
    return Verified(list(rows), AT)


def drafts(drafter: PeerId, base: Sequence[int], *tokens: int, parents: tuple[int, ...] = ()) -> DraftArrived:
    return DraftArrived(drafter, len(base), prefix_hash(SESSION, base), tokens, parents, (), AT)


def run(
    length: int,
    tokens: Sequence[int],
    tree: Sequence[int] = (),
    parents: Sequence[int] = (),
    *,
    keep: Iterable[int] = (),
) -> RunPass:
    return RunPass(Segment(SESSION, length, tuple(keep), tuple(tokens), tuple(tree), tuple(parents)))


def emits(position: int, *tokens: tuple[int, PeerId | None]) -> Emit:
    return Emit(position, tuple(Committed(token, origin, 2.0, drafted=origin is not None) for token, origin in tokens))


def verdict(drafter: PeerId, committed: Sequence[int], *tail: int, window: Window = WINDOW) -> SendVerdict:
    return SendVerdict(drafter, len(committed), tail, prefix_hash(SESSION, committed), window)


def feed(session: TargetSession, *events: TargetEvent) -> list[TargetInstruction]:
    """Hand in events and return what the last one brings."""
    instructions: list[TargetInstruction] = []
    for event in events:
        instructions = session.handle(event)
        check_tree(session.tree, SESSION)
    return instructions


def emitted(instructions: list[TargetInstruction]) -> tuple[Committed, ...]:
    [emit] = [i for i in instructions if isinstance(i, Emit)]
    return emit.tokens


def test_the_first_rounds_of_a_target_alone() -> None:
    session = session_of()
    assert feed(session, Started(AT)) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT)]
    assert feed(session, says(7)) == [emits(0, (7, None)), RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(3, (7,))]
    assert feed(session, says(8)) == [emits(1, (8, None)), RequestModel()]
    assert (session.answer_len, session.remaining) == (2, 48)


def test_sampling_prepares_the_noise_of_every_row_of_the_pass() -> None:
    session = session_of(sampling=Sampling(temperature=0.5))
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8, 9, parents=(-1, 0, -1)))
    assert feed(session, ModelFree(AT)) == [
        run(0, PROMPT, (7, 9, 8), (-1, -1, 0)),
        PrepareNoise(range(3, 6)),  # after the prompt, after 7 or 9, after 7 8
    ]


def test_accepted_drafts_are_kept_in_the_cache_and_credited() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8, 9))
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT, (7, 8, 9), (-1, 0, 1))]
    assert feed(session, says(7, 8, 5, 19)) == [
        emits(0, (7, A), (8, A), (5, None)),
        RequestModel(),
        verdict(A, (*PROMPT, 7, 8, 5), 5),
    ]
    # 7 and 8 are in the model's cache already: only 5 has to run.
    assert feed(session, ModelFree(AT)) == [run(3, (5,), keep=(0, 1))]
    assert feed(session, says(6)) == [emits(3, (6, None)), RequestModel(), verdict(A, (*PROMPT, 7, 8, 5, 6), 6)]
    assert feed(session, ModelFree(AT)) == [run(6, (6,))]


def test_all_accepted_brings_a_bonus_token() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8), ModelFree(AT))
    assert feed(session, says(7, 8, 9)) == [
        emits(0, (7, A), (8, A), (9, None)),
        RequestModel(),
        verdict(A, (*PROMPT, 7, 8, 9), 9),
    ]


def test_rejected_drafts_cost_a_row_each_and_nothing_else() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8), ModelFree(AT))
    assert feed(session, says(5, 19, 19)) == [emits(0, (5, None)), RequestModel(), verdict(A, (*PROMPT, 5), 5)]
    assert feed(session, ModelFree(AT)) == [run(3, (5,))]
    assert len(session.tree) == 0


def test_a_drafter_that_keeps_being_wrong_may_run_ahead_less_far() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT))
    for _ in range(10):
        session.stats.of(A).decided(False)
    feed(session, ModelFree(AT))
    told = verdict(A, (*PROMPT, 5), 5, window=Window(positions=5, tokens=8))
    assert feed(session, says(5)) == [emits(0, (5, None)), RequestModel(), told]


def outlooks(instructions: list[TargetInstruction]) -> dict[PeerId, Outlook | None]:
    return {i.drafter: i.outlook for i in instructions if isinstance(i, SendVerdict)}


def test_a_verdict_says_nothing_that_its_drafter_drafted_but_what_others_hang_from() -> None:
    session = session_of(width=1)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(session, drafts(A, PROMPT, 7, 8, 9), drafts(B, PROMPT, 7, 8, 6, parents=(-1, 0, 1)), ModelFree(AT))
    told = outlooks(feed(session, says(7, 8)))  # 7 was verified, and 8 follows
    claim = quantised(session.belief(next(iter(session.tree))))
    assert told[A] == Outlook((6,), (-1,), (claim,))
    assert told[B] == Outlook((9,), (-1,), (claim,))
    feed(session, drafts(A, (*PROMPT, 7, 8, 9), 4), drafts(B, (*PROMPT, 7, 8, 9), 5), ModelFree(AT))
    told = outlooks(feed(session, says(9, 19)))
    assert [o and o.tokens for o in told.values()] == [None, None], "what was drafted lies behind"


def test_what_hangs_from_the_drafters_own_comes_with_it() -> None:
    session = session_of(width=0)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(session, drafts(A, PROMPT, 7, 8), drafts(B, PROMPT, 7, 8, 9), ModelFree(AT))
    told = outlooks(feed(session, says(7)))
    assert told[B] is None
    outlook = told[A]
    assert outlook is not None
    assert (outlook.tokens, outlook.parents) == ((8, 9), (-1, 0))


@pytest.mark.parametrize(("heard", "merit"), [(AT, 1), (AT + 0.1, 0)])
def test_who_repeats_what_it_has_heard_has_not_drafted_it(heard: float, merit: int) -> None:
    """What crossed our words was its own; what came after it had heard them may be their echo."""
    session = session_of(width=1)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(session, drafts(A, PROMPT, 7, 8, 9), ModelFree(AT))
    assert outlooks(feed(session, says(7, 8)))[B] == Outlook((9,), (-1,), (quantised(session.belief(2)),))
    copy = dataclasses.replace(drafts(B, (*PROMPT, 7, 8), 9), heard=heard)
    feed(session, copy, ModelFree(AT), says(9, 4))
    assert session.tree.committed[-2:] == [9, 4]
    assert (session.stats.of(B).accepted, session.stats.of(B).won) == (merit, 0)
    expected = session.knowledge.expected(B, 1.0, AT), session.knowledge.expected(A, 1.0, AT)
    assert expected[0] < expected[1]


def test_who_seems_far_away_and_only_repeats_is_not_paid_for_long() -> None:
    """A node can be slow with its pongs; that what it sends is never anything new, it cannot hide."""
    session = session_of(width=1, max_tokens=1000)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    for round_ in range(2 * MOST_CROSSED):
        at = AT + round_
        base = tuple(session.tree.committed)
        feed(session, drafts(A, base, 7, 8, 9), ModelFree(at))
        feed(session, Verified(says(7, 8).rows, at))
        copy = dataclasses.replace(drafts(B, (*base, 7, 8), 9), heard=-math.inf, at=at + 0.5)
        feed(session, copy, ModelFree(at), Verified(says(9, 4).rows, at + 0.7))
    assert session.stats.of(A).accepted == 4 * MOST_CROSSED
    assert session.stats.of(B).accepted == MOST_CROSSED


def test_words_that_a_drafter_never_hears_are_forgotten() -> None:
    session = session_of(width=1, max_tokens=1000)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    for _ in range(100):
        base = tuple(session.tree.committed)
        feed(session, drafts(A, base, 7, 8, 9), ModelFree(AT), says(7, 8))
    assert len(session._telling[B]) <= 64
    feed(session, DrafterLeft(B, AT))
    assert B not in session._telling


def test_a_sibling_can_be_right() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8, 9, parents=(-1, -1, 1)), ModelFree(AT))
    assert feed(session, says(8, 19, 9, 4)) == [
        emits(0, (8, A), (9, A), (4, None)),
        RequestModel(),
        verdict(A, (*PROMPT, 8, 9, 4), 4),
    ]
    assert feed(session, ModelFree(AT)) == [run(3, (4,), keep=(1, 2))]


def test_what_arrives_during_a_pass_is_merged_and_verified_in_the_next() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), ModelFree(AT))
    assert feed(session, drafts(A, PROMPT, 7, 8, 9)) == []
    assert feed(session, says(7)) == [emits(0, (7, None)), RequestModel(), verdict(A, (*PROMPT, 7))]
    assert feed(session, ModelFree(AT)) == [run(3, (7,), (8, 9), (-1, 0))]


def test_a_verdict_holds_what_each_drafter_lacks() -> None:
    """A drafter knows the tokens it drafted; from the first it did not draft on, it is told them all."""
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT), DrafterJoined(PeerId("c"), 2, AT))
    feed(session, drafts(A, PROMPT, 7, 8), drafts(B, PROMPT, 7), ModelFree(AT))
    committed = (*PROMPT, 7, 8, 9)
    assert feed(session, says(7, 8, 9)) == [
        emits(0, (7, A), (8, A), (9, None)),
        RequestModel(),
        verdict(A, committed, 9),
        verdict(B, committed, 8, 9),
        verdict(PeerId("c"), committed, 7, 8, 9),
    ]


def test_a_token_that_arrived_during_the_pass_is_not_in_the_tail() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7), ModelFree(AT))
    feed(session, drafts(A, (*PROMPT, 7), 8))
    assert feed(session, says(7, 8)) == [emits(0, (7, A), (8, None)), RequestModel(), verdict(A, (*PROMPT, 7, 8))]


def test_the_first_to_bring_a_token_wins_it() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(session, drafts(B, PROMPT, 7), drafts(A, PROMPT, 7, 8), ModelFree(AT))
    emit, *_ = feed(session, says(7, 8, 9))
    assert emit == emits(0, (7, B), (8, A), (9, None))
    assert session.stats.won_by_peer == {A: 1, B: 1}


def test_joining_midway_opens_with_everything_committed() -> None:
    session = session_of()
    feed(session, Started(AT), ModelFree(AT), says(7), ModelFree(AT))
    assert feed(session, DrafterJoined(A, 2, AT)) == [OpenDraft(A, (*PROMPT, 7), WINDOW, 2)]
    assert feed(session, DrafterJoined(A, 2, AT)) == [], "it is there already"
    assert feed(session, says(8)) == [emits(1, (8, None)), RequestModel(), verdict(A, (*PROMPT, 7, 8), 8)]


def test_what_a_drafter_leaves_behind_is_still_verified_and_credited() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7))
    assert feed(session, DrafterLeft(A, AT)) == []
    assert feed(session, DrafterLeft(A, AT)) == []
    assert feed(session, drafts(A, PROMPT, 8)) == [], "nobody it knows"
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT, (7,), (-1,))]
    assert feed(session, says(7, 9)) == [emits(0, (7, A), (9, None)), RequestModel()]
    assert session.stats.of(A).accepted == 1


def test_one_who_comes_back_is_told_what_its_earlier_stay_drafted() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8), DrafterLeft(A, AT))
    assert feed(session, DrafterJoined(A, 1, AT)) == [OpenDraft(A, PROMPT, WINDOW, 1)]
    feed(session, ModelFree(AT))
    assert feed(session, says(7, 8, 9)) == [
        emits(0, (7, A), (8, A), (9, None)),
        RequestModel(),
        verdict(A, (*PROMPT, 7, 8, 9), 7, 8, 9),
    ]
    assert session.stats.of(A).accepted == 2


def test_drafts_beyond_the_window_are_counted_and_left_out() -> None:
    session = session_of(width=40)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, *range(4, 14)))
    assert len(session.tree) == WINDOW.positions
    feed(session, drafts(A, PROMPT, *range(10, 19), parents=(-1,) * 9))
    assert len(session.tree) == WINDOW.tokens
    figures = session.stats.of(A)
    assert (figures.drafted, figures.surplus) == (19, 10)


@pytest.mark.parametrize(
    ("rounds", "again", "positions"),
    [(RECENT_WINDOWS - 1, False, WINDOW.positions), (RECENT_WINDOWS, False, 2), (0, True, 2)],
    ids=["on its way, maybe", "long ago", "in an earlier stay"],
)
def test_a_drafter_is_held_to_the_largest_window_it_was_given_lately(rounds: int, again: bool, positions: int) -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT))
    session.stats.of(A).decisions = 1e9  # all of them wrong
    for _ in range(rounds):
        feed(session, ModelFree(AT), says(7))
    if again:
        feed(session, DrafterLeft(A, AT), DrafterJoined(A, 0, AT))
    feed(session, drafts(A, session.tree.committed, *range(1, 9)))
    assert len(session.tree) == positions
    assert session.stats.of(A).surplus == 8 - positions


def nonsense(session: TargetSession, peer: PeerId, first: int, children: int) -> DraftArrived:
    """A full window of it after the root: so many children each."""
    count = session.policy.window.tokens
    parents = tuple((i - children) // children if i >= children else -1 for i in range(count))
    return drafts(peer, session.tree.committed, *range(first, first + count), parents=parents)


@pytest.mark.parametrize("children", [MAX_CHILDREN, 1024])
def test_a_flood_of_candidates_leaves_a_pass_few_to_look_at(children: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session = TargetSession(dataclasses.replace(SPEC, vocab_size=5000), Policy())
    session.handle(Started(AT))
    for lane, peer in enumerate((A, B)):
        session.handle(DrafterJoined(peer, lane, AT))
        session.handle(nonsense(session, peer, 10 + 2000 * lane, children))
    assert len(session.tree.children(ROOT)) == 2 * MAX_CHILDREN
    looked_at: list[int] = []

    def belief(node: int) -> float:
        looked_at.append(node)
        return 0.5

    monkeypatch.setattr(session, "belief", belief)
    session.wish(AT)
    assert len(looked_at) <= (2 + session.policy.width) * MAX_CHILDREN


def test_drafters_that_come_and_go_within_a_round_leave_no_more_than_a_window_behind() -> None:
    session = TargetSession(dataclasses.replace(SPEC, vocab_size=100_000), Policy())
    feed(session, Started(AT))
    most = session.policy.window.tokens
    for stay in range(20):
        for peer in (A, PeerId(f"n{stay}")):
            session.handle(DrafterJoined(peer, 0, AT))
            assert len(session.tree) <= most * len(session.drafters)
            session.handle(nonsense(session, peer, 10 + 2000 * stay, MAX_CHILDREN))
        check_tree(session.tree, SESSION)
        session.handle(DrafterLeft(A, AT))
        session.handle(DrafterLeft(PeerId(f"n{stay}"), AT))


def test_what_is_being_verified_stays_whoever_leaves_meanwhile() -> None:
    session = TargetSession(SPEC, Policy(window=Window(positions=2, tokens=2)))
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(session, drafts(A, PROMPT, 7, 8), drafts(B, PROMPT, 9, 10), ModelFree(AT))
    feed(session, drafts(A, (*PROMPT, 9), 11), DrafterLeft(A, AT), DrafterLeft(B, AT))
    feed(session, DrafterJoined(PeerId("c"), 0, AT))
    assert emitted(feed(session, says(9, 1, 10, 1, 12)))[0] == Committed(9, B, 2.0, drafted=True)


def test_the_answer_ends_at_an_end_of_sequence_token() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT), ModelFree(AT))
    assert feed(session, says(STOP)) == [
        emits(0, (STOP, None)),
        CloseDraft(A),
        CloseDraft(B),
        Finish(FinishReason.STOP),
    ]
    assert session.state is TargetState.FINISHED


def test_the_answer_ends_at_an_end_of_sequence_token_inside_a_draft() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, STOP, 8), ModelFree(AT))
    assert feed(session, says(7, STOP, 8, 9)) == [
        emits(0, (7, A), (STOP, A)),
        CloseDraft(A),
        Finish(FinishReason.STOP),
    ]


def test_end_of_sequence_goes_by_where_the_submitter_ignores_it() -> None:
    session = session_of(stop_tokens=())
    feed(session, Started(AT), ModelFree(AT))
    assert feed(session, says(STOP)) == [emits(0, (STOP, None)), RequestModel()]


def test_end_of_sequence_is_not_chosen_before_min_tokens() -> None:
    session = session_of(sampling=Sampling(min_tokens=2))
    feed(session, Started(AT), ModelFree(AT))
    assert [c.token for c in emitted(feed(session, says(STOP)))] == [1]
    feed(session, ModelFree(AT), says(STOP), ModelFree(AT))
    assert feed(session, says(STOP)) == [emits(2, (STOP, None)), Finish(FinishReason.STOP)]


def test_max_tokens_of_one_needs_no_candidate() -> None:
    session = session_of(max_tokens=1)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8))
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT)]
    assert feed(session, says(7)) == [emits(0, (7, None)), CloseDraft(A), Finish(FinishReason.LENGTH)]


def test_candidates_go_no_deeper_than_the_answer() -> None:
    session = session_of(max_tokens=3)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7, 8, 9, 10))
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT, (7, 8), (-1, 0))]
    assert feed(session, says(7, 8, 9)) == [
        emits(0, (7, A), (8, A), (9, None)),
        CloseDraft(A),
        Finish(FinishReason.LENGTH),
    ]


def test_resuming_runs_prompt_and_answer_and_counts_on() -> None:
    session = session_of(committed=(7, 8), max_tokens=4)
    assert feed(session, Started(AT)) == [RequestModel()]
    assert feed(session, DrafterJoined(A, 0, AT)) == [OpenDraft(A, (*PROMPT, 7, 8), WINDOW, 0)]
    assert feed(session, ModelFree(AT)) == [run(0, (*PROMPT, 7, 8))]
    assert feed(session, says(9)) == [emits(2, (9, None)), RequestModel(), verdict(A, (*PROMPT, 7, 8, 9), 9)]
    feed(session, ModelFree(AT))
    assert feed(session, says(9)) == [emits(3, (9, None)), CloseDraft(A), Finish(FinishReason.LENGTH)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompt": ()}, "at least one token"),
        ({"committed": (7, 8), "max_tokens": 2}, "nothing is left"),
        ({"max_tokens": 0}, "nothing is left"),
        ({"committed": (7, STOP)}, "already ended"),
    ],
)
def test_an_answer_that_cannot_begin(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(SPEC, **changes)


def test_log_probabilities_are_those_of_the_row_each_token_was_chosen_from() -> None:
    session = session_of(top_logprobs=2)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7), ModelFree(AT))
    event = says(7, 8)
    settled = emitted(feed(session, event))
    expected = []
    for row, token in zip(event.rows, (7, 8), strict=True):
        logprob, top = logprobs(row, VOCABULARY, token, 2)
        expected.append(TokenScores(logprob, tuple(top)))
    assert [c.scores for c in settled] == expected


CANCELLED = [CloseDraft(A), Finish(FinishReason.CANCELLED)]


def test_cancel_before_the_start() -> None:
    assert feed(session_of(), Cancelled(AT)) == [Finish(FinishReason.CANCELLED)]


def test_cancel_while_waiting_for_the_model() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT))
    assert feed(session, Cancelled(AT)) == CANCELLED
    assert feed(session, ModelFree(AT)) == [], "the turn that was asked for is passed on"


def test_cancel_during_a_pass() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), ModelFree(AT))
    assert feed(session, Cancelled(AT)) == CANCELLED
    assert feed(session, says(7)) == [], "nothing is emitted after the end"
    assert feed(session, Cancelled(AT)) == []


def test_a_failed_pass_ends_the_answer_here() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), ModelFree(AT))
    assert feed(session, ModelFailed("out of memory", AT)) == [CloseDraft(A), Fail("out of memory")]
    assert session.state is TargetState.FINISHED


def test_a_pass_whose_logits_are_not_numbers_is_a_failed_pass() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7), ModelFree(AT))
    rows = list(says(7, 8).rows)
    rows[1][3] = math.nan
    close, fail = feed(session, Verified(rows, AT))
    assert (close, type(fail)) == (CloseDraft(A), Fail)
    assert session.answer_len == 0


def test_a_drafter_that_was_wrong_for_long_still_gets_its_chance() -> None:
    """What is not worth its row is not verified, but for one candidate every `retry_rounds` rounds."""
    session = session_of(max_tokens=99)
    feed(session, Started(AT), DrafterJoined(A, 0, AT))
    tried: list[int] = []
    now = 0.0
    for _ in range(60):
        feed(session, drafts(A, session.tree.committed, 9))
        [instruction] = feed(session, turn_of_one(session, now))
        assert isinstance(instruction, RunPass)
        candidates = len(instruction.segment.tree)
        tried.append(candidates)
        now += 1.0 + 0.4 * candidates
        feed(session, dataclasses.replace(says(*([8] * (1 + candidates))), at=now))
    assert tried[0] == 1
    # What a row costs is not known before widths differ, so that it takes a while.
    assert [i for i, candidates in enumerate(tried) if candidates and i >= 32] == [32, 48]


def test_a_drafter_is_believed_as_far_as_what_it_said_came_true() -> None:
    knowledge = Knowledge()
    session = TargetSession(SPEC, Policy(), knowledge)
    feed(session, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    sure = quantised(0.9)
    for token in range(4, 14):
        for drafter, draft in ((A, token), (B, 19)):
            feed(session, dataclasses.replace(drafts(drafter, session.tree.committed, draft), confidences=(sure,)))
        [instruction] = feed(session, ModelFree(AT))
        assert isinstance(instruction, RunPass)
        feed(session, says(token, *[18] * len(instruction.segment.tree)))
    # Each round settled A's token and one that nobody had drafted.
    assert knowledge.reliability(A).believed(sure) > 0.85
    assert knowledge.reliability(B).believed(sure) < 0.2
    again = TargetSession(SPEC, Policy(), knowledge)
    feed(again, Started(AT), DrafterJoined(A, 0, AT), DrafterJoined(B, 1, AT))
    feed(again, dataclasses.replace(drafts(B, PROMPT, 7), confidences=(sure,)))
    feed(again, dataclasses.replace(drafts(A, PROMPT, 8), confidences=(sure,)), DrafterLeft(A, AT))
    assert feed(again, ModelFree(AT)) == [run(0, PROMPT, (8, 7), (-1, -1))], "another session knows it too"


def test_who_says_nothing_of_its_tokens_is_taken_for_unsure() -> None:
    session = session_of()
    feed(session, Started(AT), DrafterJoined(A, 0, AT), drafts(A, PROMPT, 7))
    [node] = session.tree
    assert session.belief(node) == pytest.approx(0.5, abs=0.03)


# The target's own drafter.


def locally(**changes: Any) -> TargetSession:
    """A session whose target has a drafter of its own, in its first pass of it."""
    session = TargetSession(dataclasses.replace(SPEC, **changes), Policy(width=7, window=WINDOW), local=Reach(64, 256))
    feed(session, Started(AT))
    assert feed(session, turn_of_one(session, AT)) == [RunLocalPass(Segment(SESSION, 0, (), PROMPT))]
    return session


def test_what_the_targets_own_drafter_drafts_is_verified_and_nobodys() -> None:
    session = locally()
    assert session.state is TargetState.DRAFTING
    assert feed(session, DrafterJoined(A, 0, AT)) == [OpenDraft(A, PROMPT, WINDOW, 0)]
    assert session.wish(AT) == Wish(), "it runs already"
    assert feed(session, LocalDrafted(says(7).rows, AT + 1.0)) == [RequestModel()]
    assert session.wish(AT).places
    assert not turn_of_one(session, AT).drafting, "nothing to weigh a second one against yet"
    [instruction] = feed(session, ModelFree(AT))
    assert isinstance(instruction, RunPass)
    assert instruction.segment.tree[0] == 7
    settled = feed(session, says(7, 8, *[18] * (len(instruction.segment.tree) - 1)))
    assert isinstance(settled[0], Emit)
    assert [(c.token, c.origin, c.drafted) for c in settled[0].tokens] == [(7, None, True), (8, None, False)]
    assert settled[-1] == verdict(A, (*PROMPT, 7, 8), 7, 8)
    assert session.stats.local_passes == 1


def test_in_a_turn_of_the_drafter_who_has_nothing_for_it_goes_on_waiting() -> None:
    session = session_of()
    feed(session, Started(AT))
    assert session.wish(AT).places == (), "there is no drafter"
    assert feed(session, ModelFree(AT, drafting=True)) == []
    assert session.state is TargetState.WAITING
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT)]


def test_a_pass_that_was_offered_is_run_once() -> None:
    session = locally()
    feed(session, LocalDrafted(says(7).rows, AT))
    assert feed(session, ModelFree(AT, drafting=True)) == []  # it was not asked again what it would gain


@pytest.mark.parametrize("local", [False, True])
def test_a_target_that_drafts_as_well_announces_its_verdicts(local: bool) -> None:
    """Its rounds are uneven; without a drafter at the target nodes know the rhythm."""
    knowledge = Knowledge()
    session = TargetSession(SPEC, Policy(width=7, window=WINDOW), knowledge, local=Reach(64, 256) if local else None)
    feed(session, Started(AT))
    for drafter in (A, B):
        feed(session, DrafterJoined(drafter, 0, AT))
    announced: list[list[AnnounceVerdict]] = []
    for token in (7, 8, 9):
        begun = feed(session, ModelFree(AT))
        announced.append([i for i in begun if isinstance(i, AnnounceVerdict)])
        feed(session, Verified(says(token).rows, AT + 0.25))
    first, *others = announced
    assert first == [], "nobody knows yet how long a verification takes"
    expected = [AnnounceVerdict(A, pytest.approx(0.25)), AnnounceVerdict(B, pytest.approx(0.25))]
    assert others == ([expected] * 2 if local else [[], []])


def test_a_target_whose_own_drafter_fails_goes_on_without_it() -> None:
    session = locally()
    assert feed(session, LocalFailed("out of memory", AT)) == [RequestModel()]
    assert session.wish(AT).places == ()
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT)]
    feed(session, says(7))
    assert feed(session, ModelFree(AT)) == [run(3, (7,))]
    assert session.stats.local_passes == 0


def test_the_last_token_needs_no_draft_of_its_own() -> None:
    session = TargetSession(dataclasses.replace(SPEC, max_tokens=1), Policy(), local=Reach(64, 256))
    feed(session, Started(AT))
    assert session.wish(AT) == Wish((), Policy().width, dearer=Policy().local.price, places=[])
    assert feed(session, ModelFree(AT)) == [run(0, PROMPT)]


def test_cancel_during_a_pass_of_the_targets_own_drafter() -> None:
    session = locally()
    feed(session, DrafterJoined(A, 0, AT))
    assert feed(session, Cancelled(AT)) == CANCELLED
    assert feed(session, LocalDrafted(says(7).rows, AT)) == []


# The table, pair by pair.

EVENTS: list[TargetEvent] = [
    Started(AT),
    ModelFree(AT),
    ModelFailed("gone", AT),
    DrafterJoined(A, 0, AT),
    DrafterLeft(A, AT),
    drafts(A, PROMPT, 7),
    says(7),
    LocalDrafted(says(7).rows, AT),
    LocalFailed("gone", AT),
    Cancelled(AT),
]


def in_state(state: TargetState) -> TargetSession:
    session = locally() if state is TargetState.DRAFTING else session_of()
    if state not in (TargetState.NEW, TargetState.DRAFTING):
        feed(session, Started(AT))
    if state is TargetState.VERIFYING:
        feed(session, ModelFree(AT))
    if state is TargetState.FINISHED:
        feed(session, Cancelled(AT))
    assert session.state is state
    return session


@pytest.mark.parametrize("state", TargetState, ids=lambda state: state.name)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_pair_of_state_and_event_is_legal_or_refused(state: TargetState, event: TargetEvent) -> None:
    session = in_state(state)
    if (state, type(event)) in TRANSITIONS:
        feed(session, event)
        if state is TargetState.FINISHED:
            assert session.state is TargetState.FINISHED
    else:
        with pytest.raises(LocalProtocolError, match=f"{type(event).__name__} in state {state.name}"):
            session.handle(event)
        assert session.state is state


def test_the_table_names_every_event() -> None:
    assert {event for _, event in TRANSITIONS} == {type(event) for event in EVENTS}
