"""One generation as a drafter sees it, instruction by instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.session_rows import check_tree, prefix_hash
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.speculation.calibration import RankTable, quantised
from wanspec_p2p.speculation.drafter_session import (
    DRAFTER_TRANSITIONS,
    MAX_DRAFT_TOKENS,
    DrafterSession,
    DrafterSpec,
    DrafterState,
)
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    Outlook,
    PauseOver,
    SessionClosed,
    Started,
    VerdictAnnounced,
    VerdictArrived,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Abandon,
    DrafterInstruction,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    StartFlushTimer,
)
from wanspec_p2p.speculation.tree import ROOT
from wanspec_p2p.types import Sampling, Segment, SessionId

SESSION = SessionId("5e5510")
CACHE = "draft-1"
PROMPT = (1, 2, 3)
STOP = 0
VOCABULARY = 20
WINDOW = Window(positions=6, tokens=9)
AT = 0.0
CHANCES = (0.9, 0.02, 0.01, 0.005)
SURE = quantised(CHANCES[0])
TIMER = StartFlushTimer(0.010)
SPEC = DrafterSpec(
    session=SESSION,
    cache=CACHE,
    prefix=PROMPT,
    prompt_len=3,
    seed=bytes(16),
    sampling=Sampling(),
    vocab_size=VOCABULARY,
    stop_tokens=(STOP,),
    window=WINDOW,
    context=100,
    floor=0.05,  # the first candidates' chain and nothing else
)
BRANCHING = (0.6, 0.3, 0.0, 0.0)


class FixedTable(RankTable):
    """Chances that do not change, and what a session would have had it learn."""

    def __init__(self, chances: tuple[float, ...] = CHANCES) -> None:
        super().__init__()
        self._fixed = chances
        self.learned: list[int | None] = []

    def chances(self, sureness: int) -> tuple[float, ...]:
        return self._fixed

    def learn(self, sureness: int, rank: int | None) -> None:
        self.learned.append(rank)


def session_of(table: FixedTable | None = None, **changes: Any) -> DrafterSession:
    return DrafterSession(dataclasses.replace(SPEC, **changes), table or FixedTable())


def says(*candidates: int) -> Drafted:
    """One row, of these candidates, best first."""
    return say(candidates)


def say(*places: Sequence[int]) -> Drafted:
    """A row for each place, of its candidates, best first."""
    rows = np.zeros((len(places), VOCABULARY), dtype=np.float32)
    for row, candidates in zip(rows, places, strict=True):
        for rank, token in enumerate(candidates):
            row[token] = 50.0 - rank
    return Drafted(list(rows), AT)


NO_OPINION = Drafted([np.ones(VOCABULARY, dtype=np.float32)], AT)


def run(length: int, *tokens: int, keep: tuple[int, ...] = ()) -> RunPass:
    """Committed tokens that have not been run yet; `keep` of them have."""
    return RunPass(Segment(CACHE, length, keep, tokens))


def grow(
    length: int,
    *tree: int,
    parents: tuple[int, ...] = (-1,),
    keep: tuple[int, ...] = (),
    held: tuple[int, ...] = (),
) -> RunPass:
    """Drafted tokens, below what the cache holds already."""
    return RunPass(Segment(CACHE, length, keep, (), tree, parents, held))


def sends(base: Sequence[int], *tokens: int) -> SendDraft:
    return SendDraft(len(base), prefix_hash(SESSION, base), tokens, (), (SURE,) * len(tokens))


def verdict(committed: Sequence[int], *tail: int, window: Window = WINDOW) -> VerdictArrived:
    assert tuple(committed[len(committed) - len(tail) :]) == tail
    return VerdictArrived(len(committed), tail, prefix_hash(SESSION, committed), window, AT)


def feed(session: DrafterSession, *events: DrafterEvent) -> list[DrafterInstruction]:
    """Hand in events and return what the last one brings."""
    instructions: list[DrafterInstruction] = []
    for event in events:
        instructions = session.handle(event)
        check_tree(session.tree, SESSION)
        if session.spec.floor == SPEC.floor:
            assert len(session.tree.path(max(session.tree, default=ROOT))) == len(session.tree), "it drafts one path"
    return instructions


def in_step(session: DrafterSession, *, verdicts: int = 4) -> None:
    """From waiting for the model: a pass of a second, a verdict every second, and the model is free as one is due."""
    text = PROMPT
    for number in range(verdicts):
        feed(session, ModelFree(float(number)), dataclasses.replace(says(5), at=number + 1.0))
        text = (*text, 9)
        feed(session, dataclasses.replace(verdict(text, 9), at=number + 1.0))
    feed(session, ModelFree(verdicts + 1.0))


def drafted(session: DrafterSession, *tokens: int) -> list[DrafterInstruction]:
    """Let the session draft these, from waiting for the model."""
    instructions: list[DrafterInstruction] = []
    for token in tokens:
        instructions = feed(session, ModelFree(AT), says(token))
    return instructions


def tokens_sent(instructions: list[DrafterInstruction]) -> tuple[int, ...]:
    [draft] = [i for i in instructions if isinstance(i, SendDraft)]
    return draft.tokens


def test_it_runs_ahead_and_streams_as_it_goes() -> None:
    session = session_of(flush_tokens=2)
    assert feed(session, Started(AT)) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(0, *PROMPT)]
    assert feed(session, says(4)) == [TIMER, RequestModel()]
    assert feed(session, ModelFree(AT)) == [grow(3, 4)]
    assert feed(session, says(5)) == [sends(PROMPT, 4, 5), RequestModel()]
    assert feed(session, ModelFree(AT)) == [grow(3, 5, parents=(0,), held=(0,))]
    assert feed(session, says(6)) == [RequestModel()], "the timer of the first frame still runs"
    assert feed(session, FlushDue(AT)) == [sends((*PROMPT, 4, 5), 6)]
    assert feed(session, FlushDue(AT)) == []


def test_a_frame_goes_out_by_number_of_tokens_or_by_time_whichever_comes_first() -> None:
    session = session_of(flush_tokens=3)
    feed(session, Started(AT))
    assert drafted(session, 4) == [TIMER, RequestModel()]
    assert feed(session, FlushDue(AT)) == [sends(PROMPT, 4)]
    assert drafted(session, 5) == [TIMER, RequestModel()]
    assert drafted(session, 6, 7) == [sends((*PROMPT, 4), 5, 6, 7), RequestModel()]
    assert feed(session, FlushDue(AT)) == []
    assert drafted(session, 8) == [TIMER, RequestModel()]


def test_credit_of_positions_used_up_sends_what_is_left_and_idles() -> None:
    session = session_of(window=Window(positions=2, tokens=9))
    feed(session, Started(AT))
    assert drafted(session, 4) == [TIMER, RequestModel()]
    assert drafted(session, 5) == [sends(PROMPT, 4, 5)]
    assert session.state is DrafterState.IDLE


def test_credit_of_tokens_counts_what_no_verdict_has_settled() -> None:
    session = session_of(window=Window(positions=9, tokens=3), flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5)
    assert drafted(session, 6) == [sends((*PROMPT, 4, 5), 6)]
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4), window=Window(9, 3))) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [grow(3, 6, parents=(0,), keep=(0,), held=(1,))]


def test_no_credit_at_all_asks_for_nothing() -> None:
    session = session_of(window=Window(0, 0))
    assert feed(session, Started(AT)) == []
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4), 4)) == [RequestModel()]


def test_the_context_ends_the_drafting() -> None:
    session = session_of(context=5, flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4)
    assert drafted(session, 5) == [sends((*PROMPT, 4), 5)]
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4), window=WINDOW)) == []
    outgrown = Abandon("the answer has outgrown the drafter's context")
    assert feed(session, verdict((*PROMPT, 4, 5, 6), 6)) == [outgrown, Release()], "another may have the slot"


def test_nothing_follows_an_end_of_sequence_token() -> None:
    session = session_of()
    feed(session, Started(AT))
    drafted(session, 4)
    assert drafted(session, STOP) == [sends(PROMPT, 4, STOP)]
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4))) == [], "agreed so far: still nothing to add"
    assert feed(session, verdict((*PROMPT, 4, 9), 9)) == [RequestModel()], "the target went on another way"
    assert feed(session, ModelFree(AT)) == [run(3, 9, keep=(0,))]


def test_end_of_sequence_is_not_drafted_before_min_tokens() -> None:
    session = session_of(sampling=Sampling(min_tokens=2), flush_tokens=1, prefix=(*PROMPT, 9), prompt_len=3)
    feed(session, Started(AT), ModelFree(AT))
    assert tokens_sent(feed(session, says(STOP))) == (1,)
    assert tokens_sent(drafted(session, STOP)) == (STOP,)


def test_no_opinion_idles_until_the_target_goes_another_way() -> None:
    session = session_of()
    feed(session, Started(AT))
    drafted(session, 4)
    assert feed(session, ModelFree(AT), NO_OPINION) == [sends(PROMPT, 4)]
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4))) == []
    assert feed(session, verdict((*PROMPT, 4, 8), 8)) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(3, 8, keep=(0,))]


def test_an_agreeing_verdict_changes_nothing_but_the_credit() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5, 6)
    assert feed(session, verdict((*PROMPT, 4, 5))) == []
    assert feed(session, ModelFree(AT)) == [grow(3, 6, keep=(0, 1))]
    assert feed(session, says(7)) == [sends((*PROMPT, 4, 5, 6), 7), RequestModel()]


def test_an_agreeing_verdict_in_mid_pass_lets_the_pass_count() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5)
    feed(session, ModelFree(AT))
    assert feed(session, verdict((*PROMPT, 4, 5))) == []
    assert feed(session, says(6)) == [sends((*PROMPT, 4, 5), 6), RequestModel()]
    assert feed(session, ModelFree(AT)) == [grow(3, 6, keep=(0, 1))]


def test_a_verdict_that_overtakes_it_makes_it_catch_up() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4)
    assert feed(session, verdict((*PROMPT, 4, 5, 6), 5, 6)) == []
    assert feed(session, ModelFree(AT)) == [run(3, 4, 5, 6)]
    assert feed(session, says(7)) == [sends((*PROMPT, 4, 5, 6), 7), RequestModel()]


def test_a_verdict_that_disagrees_rolls_back_to_the_fork() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5, 6)
    assert feed(session, verdict((*PROMPT, 4, 9), 9)) == []
    assert len(session.tree) == 0
    assert feed(session, ModelFree(AT)) == [run(3, 9, keep=(0,))], "the cache is good up to the fork"
    assert feed(session, says(7)) == [sends((*PROMPT, 4, 9), 7), RequestModel()]


def test_a_verdict_that_disagrees_in_mid_pass_discards_the_pass() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4)
    feed(session, ModelFree(AT))
    assert feed(session, verdict((*PROMPT, 9), 9)) == []
    assert feed(session, says(6)) == [RequestModel()], "6 followed 4, which was wrong"
    assert feed(session, ModelFree(AT)) == [run(3, 9)]


def test_what_was_not_yet_sent_of_a_wrong_path_is_never_sent() -> None:
    session = session_of(flush_tokens=4)
    feed(session, Started(AT))
    drafted(session, 4, 5)
    feed(session, verdict((*PROMPT, 9), 9))
    assert feed(session, FlushDue(AT)) == []


def test_what_was_not_yet_sent_and_is_settled_is_never_sent() -> None:
    session = session_of(flush_tokens=4)
    feed(session, Started(AT))
    drafted(session, 4, 5, 6)
    feed(session, verdict((*PROMPT, 4, 5), 4, 5))
    assert feed(session, FlushDue(AT)) == [sends((*PROMPT, 4, 5), 6)]


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_a_tail_may_begin_anywhere_on_what_was_drafted(known: int) -> None:
    """The target leaves out what had arrived when it decided; what was still on its way it says again."""
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5, 6)
    committed = (*PROMPT, 4, 5, 6)
    assert feed(session, verdict(committed, *committed[3 + known :])) == []
    assert list(session.tree.committed) == list(committed)
    assert feed(session, ModelFree(AT)) == [run(3, 6, keep=(0, 1))]


def test_a_window_that_shrinks_to_nothing_stops_the_drafting() -> None:
    session = session_of()
    feed(session, Started(AT))
    drafted(session, 4)
    feed(session, verdict((*PROMPT, 4), window=Window(0, 0)))
    assert feed(session, ModelFree(AT)) == []
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4), window=WINDOW)) == [RequestModel()]


def test_a_window_that_shrinks_in_mid_pass_lets_no_further_pass_begin() -> None:
    session = session_of(flush_tokens=9)
    feed(session, Started(AT))
    drafted(session, 4)
    feed(session, ModelFree(AT), verdict((*PROMPT, 4), window=Window(0, 0)))
    assert feed(session, says(5)) == []
    assert session.state is DrafterState.IDLE
    assert len(session.tree) == 0
    # What the row said is not lost: with credit again it is drafted, and 4 is not run once more.
    assert feed(session, verdict((*PROMPT, 4))) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [grow(3, 5, keep=(0,))]
    assert feed(session, FlushDue(AT)) == [sends((*PROMPT, 4), 5)]


def test_what_a_verdict_has_room_for_again_goes_out_though_nothing_is_left_to_run() -> None:
    session = session_of(window=Window(positions=1, tokens=9))
    feed(session, Started(AT))
    drafted(session, 4)
    assert session.state is DrafterState.IDLE
    feed(session, verdict((*PROMPT, 4), window=Window(1, 9)), ModelFree(AT), verdict((*PROMPT, 4), window=Window(0, 0)))
    assert feed(session, says(5)) == []
    assert feed(session, verdict((*PROMPT, 4), window=Window(1, 9))) == [sends((*PROMPT, 4), 5)]
    assert session.state is DrafterState.IDLE


def test_after_a_fork_it_drafts_on_from_the_committed_prefix() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5)
    feed(session, verdict((*PROMPT, 4, 9), 9))
    assert drafted(session, 7) == [sends((*PROMPT, 4, 9), 7), RequestModel()]
    assert feed(session, verdict((*PROMPT, 4, 9, 7, 8), 8)) == []
    assert feed(session, ModelFree(AT)) == [run(5, 7, 8)]


def test_resuming_tells_prompt_from_answer() -> None:
    """Presence penalties look at the answer alone: 7 is in it, 1 is not."""
    sampling = Sampling(presence_penalty=60.0)
    session = session_of(prefix=(*PROMPT, 7), sampling=sampling, flush_tokens=1)
    feed(session, Started(AT), ModelFree(AT))
    row = np.zeros(VOCABULARY, dtype=np.float32)
    row[7], row[1] = 50.0, 20.0
    assert tokens_sent(feed(session, Drafted([row], AT))) == (1,)


# Branches.


def branching(table: FixedTable | None = None, **changes: Any) -> DrafterSession:
    """A session that has run the prompt and drafts 4, or else 5."""
    session = session_of(table or FixedTable(BRANCHING), **{"floor": 0.07, "flush_tokens": 99, **changes})
    feed(session, Started(AT), ModelFree(AT), says(4, 5))
    return session


def test_second_candidates_are_branches_of_the_same_frame() -> None:
    session = branching(flush_tokens=2)
    frame = feed(branching(flush_tokens=99), FlushDue(AT))
    sureness = (quantised(0.6), quantised(0.3))
    assert frame == [SendDraft(3, prefix_hash(SESSION, PROMPT), (4, 5), (-1, -1), sureness)]
    assert feed(session, ModelFree(AT)) == [grow(3, 4, 5, parents=(-1, -1))]


def test_tokens_below_several_places_travel_in_one_frame() -> None:
    session = branching(flush_tokens=2)
    feed(session, ModelFree(AT))
    first, second = (*PROMPT, 4), (*PROMPT, 5)
    assert feed(session, say((6, 7), (8, 9)))[0] == SendDraft(
        base_len=4,
        base_hash=prefix_hash(SESSION, first),
        tokens=(6, 7, 8, 9),
        parents=(-1, -1, -2, -2),
        confidences=(quantised(0.6), quantised(0.3)) * 2,
        bases=((4, prefix_hash(SESSION, second)),),
    )


def test_a_verdict_that_takes_a_branch_finds_it_warm() -> None:
    table = FixedTable(BRANCHING)
    session = branching(table)
    feed(session, ModelFree(AT), say((6, 7), (8, 9)))
    assert feed(session, verdict((*PROMPT, 5))) == []
    assert table.learned == [1], "the second candidate was right"
    assert [session.tree[node].token for node in session.tree] == [8, 9]
    assert feed(session, ModelFree(AT)) == [grow(3, 8, 9, parents=(-1, -1), keep=(1,))], "5 is not run again"
    feed(session, FlushDue(AT), say((10,), (11,)))
    assert feed(session, verdict((*PROMPT, 5, 9, 15), 15)) == []
    assert table.learned == [1, 1, None]
    assert feed(session, ModelFree(AT)) == [run(4, 15, keep=(1,))]


@pytest.mark.parametrize(("batch", "share"), [(2, None), (8, 2), (2, 8)])
def test_a_pass_runs_no_more_than_the_batch_or_its_share_the_likeliest_first(batch: int, share: int | None) -> None:
    session, free = branching(batch=batch, window=Window(positions=6, tokens=30)), ModelFree(AT, share=share)
    feed(session, free)
    feed(session, say((6, 7), (8, 9)))  # 6 has 0.36, 7 and 8 have 0.18, 9 has 0.09
    assert feed(session, free) == [grow(3, 6, 7, parents=(0, 0), held=(0, 1))]
    feed(session, say((10,), (11,)))  # 10 has 0.216, 8 has 0.18
    assert feed(session, free) == [grow(3, 8, 10, parents=(1, 2), held=(0, 1, 2, 3))]


def test_branches_of_another_lane_are_sent_and_not_run() -> None:
    run_by = []
    for lane in range(2):
        session = branching(lane=lane, lanes=2)
        assert [session.tree[node].token for node in session.tree] == [4, 5]
        [instruction] = feed(session, ModelFree(AT))
        assert isinstance(instruction, RunPass)
        run_by.append(instruction.segment.tree)
    assert sorted(run_by) == [(4,), (4, 5)], "the likeliest path is everyone's, a branch is one drafter's"


def test_no_frame_is_longer_than_the_protocol_allows() -> None:
    assert MAX_DRAFT_TOKENS == limits.MAX_DRAFT_TOKENS
    count = MAX_DRAFT_TOKENS + 6
    session = session_of(FixedTable((1.0, 0.0, 0.0, 0.0)), window=Window(count, count), flush_tokens=count, context=999)
    feed(session, Started(AT))
    tokens = [1 + i % 9 for i in range(count)]
    frames = [i for i in drafted(session, *tokens) if isinstance(i, SendDraft)]
    assert [len(frame.tokens) for frame in frames] == [MAX_DRAFT_TOKENS, 6]
    assert frames[1].base_len == len(PROMPT) + MAX_DRAFT_TOKENS
    assert [token for frame in frames for token in frame.tokens] == tokens


FOREIGN = "the verdict does not fit what was drafted"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (VerdictArrived(4, (), prefix_hash(SESSION, (*PROMPT, 9)), WINDOW, AT), FOREIGN),
        (VerdictArrived(5, (9,), prefix_hash(SESSION, (*PROMPT, 8, 9)), WINDOW, AT), FOREIGN),
        (VerdictArrived(2, (), prefix_hash(SESSION, (1, 2)), WINDOW, AT), FOREIGN),
        (VerdictArrived(1, (1, 2), prefix_hash(SESSION, (1, 2)), WINDOW, AT), FOREIGN),
        (VerdictArrived(2**53, (5,), bytes(8), WINDOW, AT), FOREIGN),
        (verdict((*PROMPT, VOCABULARY), VOCABULARY), "the verdict holds a token outside the vocabulary"),
        (verdict((*PROMPT, *(4,) * 97), *(4,) * 97), "the answer has outgrown the drafter's context"),
    ],
    ids=["hash", "base", "backwards", "negative", "far away", "vocabulary", "context"],
)
def test_a_verdict_that_does_not_fit_ends_the_session(event: VerdictArrived, reason: str) -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4)
    assert feed(session, event) == [Abandon(reason), Release()]
    assert session.state is DrafterState.CLOSED
    assert feed(session, ModelFree(AT)) == []


def test_a_prefix_outside_the_vocabulary_never_reaches_the_model() -> None:
    session = session_of(prefix=(*PROMPT, VOCABULARY))
    assert feed(session, Started(AT)) == [Abandon("the prefix holds a token outside the vocabulary"), Release()]


def test_a_failed_pass_ends_the_session_and_says_so() -> None:
    session = session_of()
    feed(session, Started(AT), ModelFree(AT))
    assert feed(session, ModelFailed("out of memory", AT)) == [Abandon("out of memory"), Release()]


@pytest.mark.parametrize(
    "events", [(), (Started(AT),), (Started(AT), ModelFree(AT))], ids=["new", "waiting", "drafting"]
)
def test_closing_releases_the_cache_whenever_it_comes(events: tuple[DrafterEvent, ...]) -> None:
    session = session_of()
    feed(session, *events)
    assert feed(session, SessionClosed(AT)) == [Release()]
    assert feed(session, SessionClosed(AT)) == []


# A verdict that is due is waited for.


def test_a_pass_waits_for_a_verdict_that_is_due_and_begins_with_it() -> None:
    session = session_of()
    feed(session, Started(AT))
    in_step(session)
    assert session.state is DrafterState.PAUSING
    late = dataclasses.replace(verdict((*PROMPT, 9, 9, 9, 9, 9), 9), at=5.1)
    assert feed(session, late) == [RequestModel()]
    assert feed(session, ModelFree(5.1)) == [run(6, 9, 9)]


def test_a_drafter_that_does_not_rest_begins_at_once() -> None:
    session = session_of(rests=False)
    feed(session, Started(AT))
    in_step(session)
    assert session.state is DrafterState.DRAFTING


def test_a_pass_waits_once_and_not_for_long() -> None:
    session = session_of()
    feed(session, Started(AT))
    in_step(session)
    assert session.state is DrafterState.PAUSING
    assert feed(session, PauseOver(5.5)) == [RequestModel()]
    assert feed(session, ModelFree(5.5)) == [run(6, 9)]
    assert session.state is DrafterState.DRAFTING


def test_a_verdict_that_was_announced_is_waited_for_without_a_rhythm() -> None:
    session = session_of()
    feed(session, Started(0.0), ModelFree(0.0), dataclasses.replace(says(5), at=1.0))
    feed(session, VerdictAnnounced(4.5, 1.0), ModelFree(5.1))
    assert session.state is DrafterState.PAUSING
    feed(session, dataclasses.replace(verdict((*PROMPT, 9), 9), at=5.5), ModelFree(5.5))
    assert session.state is DrafterState.DRAFTING
    feed(session, dataclasses.replace(says(5), at=6.5), ModelFree(9.9))
    assert session.state is DrafterState.DRAFTING, "nothing is due before the next is announced"


# What others drafted is run as what was drafted here.


def test_what_the_target_tells_of_is_run_with_the_root_and_not_sent() -> None:
    session = session_of(floor=0.01)
    feed(session, Started(AT))
    drafted(session, 4)
    told = dataclasses.replace(verdict((*PROMPT, 9), 9), outlook=Outlook((6, 7), (-1, 0), (SURE, SURE)))
    feed(session, told)
    assert feed(session, ModelFree(AT)) == [RunPass(Segment(CACHE, 3, (), (9,), (6, 7), (-1, 0)))]
    sent = feed(session, say((6, 11), (7, 12), (8,)))
    [frame] = [i for i in sent if isinstance(i, SendDraft)]
    assert set(frame.tokens).isdisjoint({6, 7}), "the target has them"
    assert {8, 11, 12} <= set(frame.tokens)
    fork = feed(session, verdict((*PROMPT, 9, 6, 7, 8), 6, 7, 8))
    assert not any(isinstance(instruction, Abandon) for instruction in fork)


def test_what_is_told_of_below_the_end_of_an_answer_is_never_run() -> None:
    """A child whose parent is not run would hang from another place in the cache than in the tree."""
    session = session_of(floor=0.01)
    feed(session, Started(AT))
    drafted(session, 4)
    told = Outlook((6, STOP, 7, 8, 11), (-1, 0, 1, 2, 0), (SURE,) * 5)
    feed(session, dataclasses.replace(verdict((*PROMPT, 9), 9), outlook=told))
    assert feed(session, ModelFree(AT)) == [RunPass(Segment(CACHE, 3, (), (9,), (6, 11), (-1, 0)))]
    feed(session, say((6, 12), (11, 13), (14,)), verdict((*PROMPT, 9, 6), 6))
    [run_next] = feed(session, ModelFree(AT))
    assert isinstance(run_next, RunPass)
    assert {STOP, 7, 8}.isdisjoint(run_next.segment.tree)


def test_a_verdict_that_settles_nothing_tells_of_nothing() -> None:
    """An honest one settles a token at least; others could fill a node's memory with what nobody drafted."""
    session = session_of(floor=0.01)
    feed(session, Started(AT))
    drafted(session, 4)
    held = len(session.tree)
    for number in range(3):
        feed(session, dataclasses.replace(verdict(PROMPT), outlook=Outlook((6 + number,), (-1,), (SURE,))))
    assert len(session.tree) == held


def test_what_is_told_of_beyond_the_window_is_never_run() -> None:
    session = session_of(floor=0.01)
    feed(session, Started(AT))
    drafted(session, 4)
    told = dataclasses.replace(
        verdict((*PROMPT, 9), 9, window=Window(2, 64)), outlook=Outlook((6, 7, 8), (-1, 0, 1), (SURE,) * 3)
    )
    feed(session, told)
    assert feed(session, ModelFree(AT)) == [RunPass(Segment(CACHE, 3, (), (9,), (6,), (-1,)))]


def test_a_target_that_tells_of_tokens_outside_the_vocabulary_is_left() -> None:
    session = session_of()
    feed(session, Started(AT))
    told = dataclasses.replace(verdict((*PROMPT, 9), 9), outlook=Outlook((VOCABULARY,), (-1,), (SURE,)))
    assert feed(session, told)[0] == Abandon("the verdict holds a token outside the vocabulary")


# The table, pair by pair.

EVENTS: list[DrafterEvent] = [
    Started(AT),
    ModelFree(AT),
    ModelFailed("gone", AT),
    says(4),
    verdict((*PROMPT, 9), 9),
    FlushDue(AT),
    VerdictAnnounced(1.0, AT),
    PauseOver(AT),
    SessionClosed(AT),
]


def in_state(state: DrafterState) -> DrafterSession:
    session = session_of(window=Window(0, 0) if state is DrafterState.IDLE else WINDOW)
    if state is not DrafterState.NEW:
        feed(session, Started(AT))
    if state is DrafterState.DRAFTING:
        feed(session, ModelFree(AT))
    if state is DrafterState.PAUSING:
        in_step(session)
    if state is DrafterState.CLOSED:
        feed(session, SessionClosed(AT))
    assert session.state is state
    return session


@pytest.mark.parametrize("state", DrafterState, ids=lambda state: state.name)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_pair_of_state_and_event_is_legal_or_refused(state: DrafterState, event: DrafterEvent) -> None:
    session = in_state(state)
    if (state, type(event)) in DRAFTER_TRANSITIONS:
        feed(session, event)
        if state is DrafterState.CLOSED:
            assert session.state is DrafterState.CLOSED
    else:
        with pytest.raises(LocalProtocolError, match=f"{type(event).__name__} in state {state.name}"):
            session.handle(event)
        assert session.state is state


def test_the_table_names_every_event() -> None:
    assert {event for _, event in DRAFTER_TRANSITIONS} == {type(event) for event in EVENTS}
