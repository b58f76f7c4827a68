"""The target's own drafter: when it drafts, what it costs, and that it never changes an answer."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.session_driver import Drive, seeded, turn_of_one
from tests.support.session_peers import HonestPeer, JunkPeer, LyingPeer
from tests.support.session_rows import PassModel, Row, Rows, decode_alone, scripted_rows
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.calibration import RankTable, chance, quantised
from wanspec_p2p.speculation.events import (
    LocalDrafted,
    LocalFailed,
    Started,
    TargetEvent,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Committed,
    Emit,
    Finish,
    PrepareNoise,
    RequestModel,
    RunLocalPass,
    RunPass,
)
from wanspec_p2p.speculation.local import LOCAL, LocalDrafter, Reach
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import LocalDrafting, Policy, select
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.target.engine import MAX_ROWS
from wanspec_p2p.types import PeerId, Sampling, Segment, SessionId, TokenId

VOCABULARY = 12
PROMPT = (1, 2, 3)
ALL = Reach(64, VOCABULARY)
STOP = 0
REMOTE = PeerId("a")
SECONDS = 0.05
"""A pass of the target."""
LOCAL_SECONDS = 0.005


class Desk:
    """What a local drafter sees of its session, and the drafter on it."""

    def __init__(self, drafting: LocalDrafting | None = None, *, remaining: int = 20) -> None:
        self.tree = DraftTree(SessionId("s"), PROMPT)
        self.sampler = Sampler(Sampling(), bytes(16), VOCABULARY, PROMPT, (STOP,))
        self.knowledge = Knowledge()
        self.remaining = remaining
        self.stop_tokens: Sequence[TokenId] = (STOP,)
        self.cache = "c"
        self.model = PassModel(scripted_rows(3, VOCABULARY))
        self.drafting = drafting or LocalDrafting()
        self.local = LocalDrafter(self, self.drafting, ALL)

    def belief(self, node: int) -> float:
        confidence = self.tree[node].confidence
        assert confidence is not None
        return chance(confidence)

    def costs(self, local: float) -> None:
        """What passes are known to take; the target decodes plainly."""
        self.knowledge.local.measured(1, local)
        self.knowledge.verify.measured(1, SECONDS)
        self.knowledge.pace.spent(SECONDS)
        self.knowledge.pace.made(1)

    def draft(self) -> Segment | None:
        """One pass, if it is worthwhile."""
        candidates = select(self.tree, self.belief, width=63, floor=0.0, retry=False, positions=self.remaining - 1)
        wish = Wish(candidates.chances, 63, self.local.places(), self.drafting.price, self.local.held)
        [count] = self.knowledge.draft_places([wish], MAX_ROWS)
        if count == 0:
            return None
        segment = self.local.segment(count)
        assert segment is not None
        self.local.drafted(self.model.run(segment))
        assert self.model.cached == list(self.tree.committed)
        return segment

    def commit(self, *tokens: TokenId) -> None:
        self.local.settle(tokens)
        self.tree.commit(tokens)
        self.sampler.commit(tokens)


def test_before_anything_is_known_one_pass_is_tried_and_then_measured_against_a_verification() -> None:
    desk = Desk()
    assert desk.draft() == Segment("c", 0, (), PROMPT)
    desk.knowledge.local.measured(1, LOCAL_SECONDS)
    assert desk.draft() is None


def test_its_nodes_are_its_own_with_the_chances_of_their_ranks() -> None:
    desk = Desk(LocalDrafting(candidates=3))
    desk.draft()
    [*nodes] = desk.tree
    assert [desk.tree[node].origin for node in nodes] == [LOCAL] * 3
    row = scripted_rows(3, VOCABULARY)(PROMPT)
    assert [desk.tree[node].token for node in nodes] == [int(token) for token in np.argsort(-row)[:3]]
    confidences = [desk.tree[node].confidence or 0 for node in nodes]
    assert confidences == sorted(confidences, reverse=True)


def test_it_drafts_on_below_its_own_nodes_until_that_no_longer_pays() -> None:
    desk = Desk()
    desk.costs(0.2 * SECONDS)
    widths = []
    while (segment := desk.draft()) is not None:
        widths.append(len(segment.tree))
        assert len(widths) < 50
    assert 1 < len(widths)
    assert max(widths) <= 8
    assert max(desk.tree[node].length for node in desk.tree) >= len(PROMPT) + 2


def test_the_dearer_a_pass_the_less_is_drafted() -> None:
    passes = []
    for price in (0.0, 2.0, 10.0):
        desk = Desk(LocalDrafting(price=price))
        desk.costs(0.2 * SECONDS)
        while desk.draft() is not None:
            pass
        passes.append(desk.model.passes)
    assert passes[0] > passes[1] > passes[2] == 0


def test_it_runs_as_many_of_its_places_as_it_is_told_to_the_best_first() -> None:
    desk = Desk()
    desk.draft()
    told = desk.local.places()
    assert len(told) > 2
    segment = desk.local.segment(2)
    assert segment is not None
    assert segment.tree == tuple(desk.tree[node].token for place in told[:2] for node in place.nodes)
    desk.local.places()
    assert desk.local.segment(0) is None
    assert desk.local.segment() is None, "what was told is told once"


def test_a_drafter_as_slow_as_its_target_is_not_asked() -> None:
    desk = Desk()
    desk.costs(SECONDS)
    assert desk.draft() is None


@pytest.mark.parametrize(("covered", "drafts"), [(0.3, True), (0.98, False)])
def test_it_keeps_still_where_others_have_drafted_what_there_is(covered: float, drafts: bool) -> None:
    desk = Desk(remaining=2)  # only the next token may be drafted
    desk.costs(LOCAL_SECONDS)
    desk.tree.add(ROOT, 5, REMOTE, quantised(covered))
    assert (desk.draft() is not None) is drafts


def test_it_goes_on_where_the_candidates_of_others_end() -> None:
    desk = Desk()
    desk.costs(LOCAL_SECONDS)
    first, _ = desk.tree.add(ROOT, 5, REMOTE, quantised(0.97))
    last, _ = desk.tree.add(first, 6, REMOTE, quantised(0.97))
    assert desk.draft() == Segment("c", 0, (), PROMPT, (5, 6), (-1, 0))
    assert len(desk.tree.children(last)) == 4


def test_nothing_is_drafted_after_an_end_or_for_the_last_token() -> None:
    desk = Desk()
    desk.costs(LOCAL_SECONDS)
    desk.tree.add(ROOT, STOP, REMOTE, quantised(0.99))
    assert desk.draft() is None
    desk = Desk(remaining=1)
    assert desk.draft() is None


def test_exactly_so_many_passes_whatever_they_cost() -> None:
    desk = Desk(LocalDrafting(passes=3))
    desk.costs(100.0)
    for _ in range(2):
        assert [desk.draft() is not None for _ in range(5)] == [True] * 3 + [False] * 2
        desk.commit(next(iter(desk.tree.children(ROOT))))
    desk = Desk(LocalDrafting(passes=0))
    assert desk.draft() is None


def test_so_many_passes_before_the_very_first_verification_too() -> None:
    desk = Desk(LocalDrafting(passes=3))
    assert [desk.draft() is not None for _ in range(4)] == [True] * 3 + [False]


def test_one_candidate_makes_a_chain() -> None:
    desk = Desk(LocalDrafting(passes=4, rows=1, candidates=1))
    while desk.draft() is not None:
        pass
    assert [len(desk.tree.children(node)) for node in desk.tree] == [1, 1, 1, 0]


def test_what_was_run_below_a_verdict_is_not_run_again() -> None:
    desk = Desk(LocalDrafting(passes=2))
    desk.draft()
    second = desk.draft()
    assert second is not None
    taken = second.tree[0]
    desk.commit(taken)
    third = desk.draft()
    assert third is not None
    assert (third.tokens, len(third.keep)) == ((), 1)


def test_verdicts_teach_it_what_its_ranks_are_worth() -> None:
    desk = Desk(LocalDrafting(passes=1))
    before = desk.knowledge.table.typical()
    for _ in range(8):
        desk.draft()
        _, second, *_ = desk.tree.children(ROOT)
        desk.commit(second)
    assert desk.knowledge.table.typical()[1] > before[1]


class Ledger(RankTable):
    """A table that also lists what it is taught."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[int | None] = []

    def learn(self, sureness: int, rank: int | None) -> None:
        self.learned.append(rank)
        super().learn(sureness, rank)


def test_a_branch_that_a_verdict_took_teaches_too_when_it_has_become_the_root() -> None:
    desk = Desk(LocalDrafting(passes=2))
    desk.knowledge.table = table = Ledger()
    desk.draft()
    second = desk.draft()
    assert second is not None
    desk.commit(second.tree[0])
    _, third, *_ = desk.tree.children(ROOT)
    desk.commit(third)
    desk.commit(STOP)  # nothing is known after it that could be right or wrong
    assert table.learned[1:] == [1]


# Whole sessions


def spec_of(seed: int, *, temperature: float = 0.0, max_tokens: int = 24) -> SessionSpec:
    return SessionSpec(
        SessionId("5e5510"),
        PROMPT,
        seed.to_bytes(16, "little"),
        Sampling(temperature=temperature),
        VOCABULARY,
        max_tokens=max_tokens,
        stop_tokens=(STOP,),
    )


def answered(
    spec: SessionSpec, rows: Rows, local: Rows, *, fails_at: int | None = None, reach: Reach = ALL
) -> tuple[Committed, ...]:
    """A target with a drafter of its own and nobody else."""
    session = TargetSession(spec, local=reach)
    model, own = PassModel(rows), PassModel(local)
    answer: list[Committed] = []
    now = 0.0
    event: TargetEvent = Started(now)
    for _ in range(20 * spec.max_tokens):
        following: TargetEvent | None = None
        for instruction in session.handle(event):
            match instruction:
                case RequestModel():
                    following = turn_of_one(session, now)
                case RunPass(segment):
                    now += SECONDS
                    following = Verified(model.run(segment), now)
                case RunLocalPass(segment):
                    now += LOCAL_SECONDS
                    following = LocalDrafted(own.run(segment), now)
                    if own.passes == fails_at:
                        following = LocalFailed("out of memory", now)
                    assert fails_at is None or own.passes <= fails_at, "asked again after it had failed"
                case Emit(_, tokens):
                    answer.extend(tokens)
                case Finish():
                    return tuple(answer)
                case other:
                    assert isinstance(other, PrepareNoise)
        assert following is not None, "the session waits for nobody"
        event = following
    raise AssertionError("never ends")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_token_of_its_own_is_nobody_elses_work(temperature: float) -> None:
    spec, rows = spec_of(5, temperature=temperature), scripted_rows(14, VOCABULARY)
    answer = answered(spec, rows, rows)
    assert [committed.token for committed in answer] == decode_alone(spec, rows)
    assert {committed.origin for committed in answer} == {None}
    assert any(committed.drafted for committed in answer)


def test_it_never_runs_beyond_its_positions() -> None:
    spec, rows, context = spec_of(5), scripted_rows(14, VOCABULARY), len(PROMPT) + 6
    longest = 0

    def within(prefix: Sequence[TokenId]) -> Row:
        nonlocal longest
        longest = max(longest, len(prefix))
        return rows(prefix)

    answer = answered(spec, rows, within, reach=Reach(context, VOCABULARY))
    assert [committed.token for committed in answer] == decode_alone(spec, rows)
    assert len(PROMPT) < longest < context


def test_it_reads_no_id_that_its_model_does_not_know() -> None:
    spec, rows = spec_of(5), scripted_rows(14, VOCABULARY)
    answer = decode_alone(spec, rows)
    known = sorted(answer)[len(answer) // 2]

    def narrow(prefix: Sequence[TokenId]) -> Row:
        assert max(prefix[len(PROMPT) :], default=0) < known
        return rows(prefix)

    reach = Reach(64, known)
    assert max(PROMPT) < known <= max(answer)
    assert [committed.token for committed in answered(spec, rows, narrow, reach=reach)] == answer


def test_a_drafter_that_fails_is_given_up_and_the_answer_goes_on() -> None:
    spec, rows = spec_of(5), scripted_rows(14, VOCABULARY)
    for fails_at in (1, 4):
        answer = answered(spec, rows, scripted_rows(14, VOCABULARY, drift=0.3), fails_at=fails_at)
        assert [committed.token for committed in answer] == decode_alone(spec, rows)


class Timed(Drive):
    """A drive in which passes of the target take time, so that there is something to weigh."""

    now = 0.0

    def feed(self, event: TargetEvent) -> None:
        if isinstance(event, Verified):
            self.now += SECONDS + 0.001 * len(event.rows)
        if isinstance(event, LocalDrafted):
            self.now += LOCAL_SECONDS
            assert event.rows
        super().feed(dataclasses.replace(event, at=self.now))


class Once:
    """Rows that are asked for once each: what a cache holds is not run again."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._asked: set[tuple[TokenId, ...]] = set()

    def __call__(self, prefix: Sequence[TokenId]) -> Row:
        assert tuple(prefix) not in self._asked, "run twice"
        self._asked.add(tuple(prefix))
        return self._rows(prefix)


DRAFTINGS = (
    LocalDrafting(),
    LocalDrafting(price=2.0),
    LocalDrafting(passes=2),
    LocalDrafting(passes=3, rows=1, candidates=1),
    LocalDrafting(rows=2, candidates=2),
)


@pytest.mark.parametrize("seed", range(200))
def test_the_answer_is_that_of_the_target_alone_whoever_drafts_beside_it(seed: int) -> None:
    draw = random.Random(seed)
    law, ties = draw.randrange(99), draw.random() < 0.3
    spec = spec_of(seed, temperature=draw.choice((0.0, 0.8)), max_tokens=draw.randint(1, 20))
    rows = scripted_rows(law, VOCABULARY, ties=ties)
    alone = decode_alone(spec, rows)
    policy = Policy(
        width=draw.choice((0, 3, 15)),
        window=Window(*draw.choice(((4, 5), (12, 24)))),
        retry_rounds=draw.randint(1, 4),
        local=draw.choice(DRAFTINGS),
    )
    own = Once(scripted_rows(law, VOCABULARY, drift=draw.choice((0.0, 0.3, 2.0)), ties=ties))
    drive = Timed(spec, rows, seeded(seed), policy, local=own)
    honest = [
        HonestPeer(spec, scripted_rows(law, VOCABULARY, drift=draw.choice((0.0, 0.4)), ties=ties), lanes=2)
        for _ in range(draw.randint(0, 2))
    ]
    for lane, peer in enumerate(honest):
        drive.join(f"n{lane}", peer, lane=lane, delay=draw.randint(0, 1))
    if draw.random() < 0.5:
        drive.join("liar", LyingPeer(spec, alone), lane=2)
    if draw.random() < 0.3:
        drive.join("junk", JunkPeer(spec, seed), lane=3)
    if draw.random() < 0.3:
        drive.run(until=lambda: len(drive.tokens) >= len(alone) // 2)
        drive.leave("n0")
    assert drive.run() == alone
    assert drive.finished is not None
    assert [peer.abandoned for peer in honest] == [None] * len(honest)


def test_a_good_drafter_of_its_own_saves_rounds() -> None:
    spec, rows = spec_of(5, max_tokens=40), scripted_rows(14, VOCABULARY)
    alone = decode_alone(spec, rows)
    drive = Timed(spec, rows, seeded(0), local=Once(scripted_rows(14, VOCABULARY)))
    assert drive.run() == alone
    assert drive.target.stats.rounds < len(alone) / 2
    assert drive.target.stats.local_passes > 0
