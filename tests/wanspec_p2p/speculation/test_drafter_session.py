"""One generation as a drafter sees it, instruction by instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.session_rows import check_tree, prefix_hash
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.speculation.drafter_session import DRAFTER_TRANSITIONS, DrafterSession, DrafterSpec, DrafterState
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    SessionClosed,
    Started,
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
SURE = 127
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
)


def session_of(**changes: Any) -> DrafterSession:
    return DrafterSession(dataclasses.replace(SPEC, **changes))


def says(token: int) -> Drafted:
    row = np.zeros(VOCABULARY, dtype=np.float32)
    row[token] = 50.0
    return Drafted(row, AT)


NO_OPINION = Drafted(np.ones(VOCABULARY, dtype=np.float32), AT)


def run(length: int, *tokens: int) -> RunPass:
    return RunPass(Segment(CACHE, length, (), tokens))


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
        assert len(session.tree.path(max(session.tree, default=ROOT))) == len(session.tree), "it drafts one path"
    return instructions


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
    assert feed(session, ModelFree(AT)) == [run(3, 4)]
    assert feed(session, says(5)) == [sends(PROMPT, 4, 5), RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(4, 5)]
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
    assert feed(session, ModelFree(AT)) == [run(5, 6)]


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
    assert feed(session, verdict((*PROMPT, 4, 5, 6), 6)) == []


def test_nothing_follows_an_end_of_sequence_token() -> None:
    session = session_of()
    feed(session, Started(AT))
    drafted(session, 4)
    assert drafted(session, STOP) == [sends(PROMPT, 4, STOP)]
    assert session.state is DrafterState.IDLE
    assert feed(session, verdict((*PROMPT, 4))) == [], "agreed so far: still nothing to add"
    assert feed(session, verdict((*PROMPT, 4, 9), 9)) == [RequestModel()], "the target went on another way"
    assert feed(session, ModelFree(AT)) == [run(4, 9)]


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
    assert feed(session, ModelFree(AT)) == [run(4, 8)]


def test_an_agreeing_verdict_changes_nothing_but_the_credit() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5, 6)
    assert feed(session, verdict((*PROMPT, 4, 5))) == []
    assert feed(session, ModelFree(AT)) == [run(5, 6)]
    assert feed(session, says(7)) == [sends((*PROMPT, 4, 5, 6), 7), RequestModel()]


def test_an_agreeing_verdict_in_mid_pass_lets_the_pass_count() -> None:
    session = session_of(flush_tokens=1)
    feed(session, Started(AT))
    drafted(session, 4, 5)
    feed(session, ModelFree(AT))
    assert feed(session, verdict((*PROMPT, 4, 5))) == []
    assert feed(session, says(6)) == [sends((*PROMPT, 4, 5), 6), RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(5, 6)]


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
    assert feed(session, ModelFree(AT)) == [run(4, 9)], "the cache is good up to the fork"
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
    assert feed(session, ModelFree(AT)) == [run(5, 6)]


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
    # The row was thrown away, so 4 runs once more although the cache holds it.
    assert feed(session, verdict((*PROMPT, 4))) == [RequestModel()]
    assert feed(session, ModelFree(AT)) == [run(3, 4)]


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
    assert tokens_sent(feed(session, Drafted(row, AT))) == (1,)


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
    ],
    ids=["hash", "base", "backwards", "negative", "far away", "vocabulary"],
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


# The table, pair by pair.

EVENTS: list[DrafterEvent] = [
    Started(AT),
    ModelFree(AT),
    ModelFailed("gone", AT),
    says(4),
    verdict((*PROMPT, 9), 9),
    FlushDue(AT),
    SessionClosed(AT),
]


def in_state(state: DrafterState) -> DrafterSession:
    session = session_of(window=Window(0, 0) if state is DrafterState.IDLE else WINDOW)
    if state is not DrafterState.NEW:
        feed(session, Started(AT))
    if state is DrafterState.DRAFTING:
        feed(session, ModelFree(AT))
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
