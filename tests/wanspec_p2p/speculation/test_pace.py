"""What passes cost and what they bring."""

from __future__ import annotations

import pytest

from wanspec_p2p.speculation.allotment import Place, Wish
from wanspec_p2p.speculation.pace import (
    MAX_PEERS,
    RETRY_ROUNDS,
    SHORT_DRAFT_PROMPT,
    SHORT_PROMPT,
    Knowledge,
    Pace,
    SharedPass,
)
from wanspec_p2p.speculation.tree import ROOT
from wanspec_p2p.types import PeerId, Segment


def test_the_pace_is_tokens_by_seconds() -> None:
    pace = Pace()
    assert pace.rate == 0.0
    for _ in range(3):
        pace.spent(0.02)
        pace.spent(0.03)
        pace.made(4)
        assert pace.rate == pytest.approx(80.0)


def test_time_that_has_brought_nothing_yet_slows_the_pace() -> None:
    pace = Pace()
    pace.spent(0.05)
    pace.made(4)
    pace.spent(0.05)
    assert pace.rate < 80.0


def test_a_pace_of_long_ago_is_forgotten() -> None:
    pace = Pace()
    for tokens in [8] * 50 + [1] * 100:
        pace.spent(0.1)
        pace.made(tokens)
    assert pace.rate == pytest.approx(10.0, rel=0.1)


def test_a_target_that_takes_no_time_has_no_pace() -> None:
    pace = Pace()
    pace.spent(0.0)
    pace.made(4)
    assert pace.rate == 0.0


def test_what_is_known_of_a_drafter_stays_with_its_name() -> None:
    knowledge = Knowledge()
    known = knowledge.reliability(PeerId("a"))
    assert knowledge.reliability(PeerId("a")) is known
    assert knowledge.reliability(PeerId("b")) is not known


def test_names_without_end_are_not_all_remembered() -> None:
    knowledge = Knowledge()
    first = knowledge.reliability(PeerId("n0"))
    for number in range(1, MAX_PEERS):
        knowledge.reliability(PeerId(f"n{number}"))
    assert knowledge.reliability(PeerId("n0")) is first
    second = knowledge.reliability(PeerId("n1"))
    knowledge.reliability(PeerId("one too many"))
    assert knowledge.reliability(PeerId("n1")) is second
    assert knowledge.reliability(PeerId("n0")) is not first


def segment(*, tree: int = 0, tokens: int = 1) -> Segment:
    return Segment("s", 0, (), (1,) * tokens, (2,) * tree, (-1,) * tree)


def shared(knowledge: Knowledge, turn: int, at: float, segments: list[Segment]) -> list[SharedPass]:
    return [knowledge.verifying.join(turn, at, one) for one in segments]


def test_a_pass_is_counted_once_and_the_tokens_of_all_who_share_it() -> None:
    together, alone = Knowledge(), Knowledge()
    for turn in range(20):
        for one in shared(together, turn, turn, [segment()] * 4):
            together.verified(one, 3, turn + 0.03)
        (one,) = shared(alone, turn, turn, [segment()])
        alone.verified(one, 12, turn + 0.03)
    assert together.pace.rate == pytest.approx(alone.pace.rate) == pytest.approx(400.0)
    assert together.verify.mean == pytest.approx(0.03)


def test_what_a_pass_takes_is_known_by_the_rows_of_all_who_share_it() -> None:
    knowledge = Knowledge()
    for turn in range(60):
        segments = [segment(tree=tree % 5) for tree in range(turn, turn + 4)]
        segments += [segment()] * (turn % 7 * 8)
        width = sum(one.rows for one in segments)
        for one in shared(knowledge, turn, 0.0, segments):
            knowledge.verified(one, 2, 0.02 + 0.001 * width)
    assert knowledge.verify.per_row(30) == pytest.approx(0.001, rel=0.05)
    assert knowledge.verify.seconds(40) == pytest.approx(0.06, rel=0.05)


def test_a_pass_nobody_told_the_end_of_is_not_mixed_with_the_next() -> None:
    """All in it failed, or were cancelled."""
    knowledge = Knowledge()
    shared(knowledge, 1, 0.0, [segment(tree=60)] * 2)
    (one,) = shared(knowledge, 2, 100.0, [segment()])
    knowledge.verified(one, 1, 100.05)
    assert knowledge.verify.mean == pytest.approx(0.05)
    assert one.width == 1


def test_a_pass_that_reads_a_prompt_says_nothing_of_rows_but_takes_its_time() -> None:
    knowledge = Knowledge()
    for one in shared(knowledge, 1, 0.0, [segment(), segment(tokens=SHORT_PROMPT + 1)]):
        knowledge.verified(one, 1, 2.0)
    assert knowledge.verify.mean == 0.0
    assert knowledge.pace.rate == pytest.approx(1.0)


def test_what_a_verification_will_take_is_told_by_its_rows_and_by_last_times_company() -> None:
    knowledge = Knowledge()
    (first,) = shared(knowledge, 0, 0.0, [segment()])
    assert knowledge.verifying_takes(first) == 0.0, "nobody knows yet"
    for turn in range(60):
        segments = [segment(tree=turn % 12)] * (1 + turn % 2)
        for one in shared(knowledge, turn, 0.0, segments):
            knowledge.verified(one, 2, 0.02 + 0.001 * sum(each.rows for each in segments))
    (reading,) = shared(knowledge, 100, 0.0, [segment(tokens=SHORT_PROMPT + 1)])
    assert knowledge.verifying_takes(reading) == 0.0, "who knows how long a prompt takes"
    (alone,) = shared(knowledge, 101, 0.0, [segment(tree=9)])
    assert knowledge.verifying_takes(alone) == pytest.approx(0.030, rel=0.05)
    shared(knowledge, 102, 0.0, [segment(tree=9)] * 2)
    (one,) = shared(knowledge, 103, 0.0, [segment(tree=9)])
    assert knowledge.verifying_takes(one) == pytest.approx(0.040, rel=0.05), "as if the other joined again"


def test_the_time_of_a_shared_draft_pass_is_counted_once() -> None:
    knowledge = Knowledge()
    for one in [knowledge.drafting.join(1, 0.0, segment()) for _ in range(4)]:
        knowledge.drafted(one, 0.01)
    for one in shared(knowledge, 2, 0.01, [segment()] * 4):
        knowledge.verified(one, 1, 0.04)
    assert knowledge.pace.rate == pytest.approx(4 / 0.04)


def drafted(knowledge: Knowledge, turn: int, seconds: float, *, tokens: int = 1) -> None:
    segment = Segment("a", 1, (), (1,) * tokens, (2,), (-1,))
    knowledge.drafted(knowledge.drafting.join(turn, 0.0, segment), seconds)


def verified(knowledge: Knowledge, turn: int) -> None:
    knowledge.verified(knowledge.verifying.join(turn, 0.0, Segment("a", 1, (), (1,))), 1, 0.030)


def drafts(knowledge: Knowledge, gain: float) -> bool:
    """Whether a session that gains so much by a draft pass has one."""
    return knowledge.draft_places([Wish(most=63, places=[Place((ROOT,), (gain,))])], 512) == [1]


def test_a_draft_pass_is_worth_the_time_of_all_who_wait_for_it() -> None:
    knowledge = Knowledge()
    assert drafts(knowledge, 0.1), "tried once, to learn what it takes"
    assert not drafts(knowledge, 0.0)
    knowledge.local.measured(8, 0.005)
    assert not drafts(knowledge, 1.0), "nothing to weigh it against yet"
    knowledge.pace.spent(0.030)
    knowledge.pace.made(3)
    at_pace = 0.005 * 3 / 0.030
    assert drafts(knowledge, at_pace + 0.02) and not drafts(knowledge, at_pace - 0.04)
    knowledge.pace.also_made(3)  # by another session in the same pass
    assert drafts(knowledge, 2 * at_pace) and not drafts(knowledge, 2 * at_pace - 0.08)


def test_time_is_worth_no_less_than_decoding_plainly_makes_of_it_however_badly_it_was_spent() -> None:
    knowledge = Knowledge()
    for turn in range(50):
        drafted(knowledge, turn, 0.02)
        verified(knowledge, turn)
    assert knowledge.pace.rate == pytest.approx(1 / 0.05)
    assert not drafts(knowledge, 0.6), "a verification makes 0.67 tokens in that time"
    assert drafts(knowledge, 0.75)


def test_a_draft_pass_that_several_share_is_counted_once_and_with_all_its_rows() -> None:
    knowledge = Knowledge()
    segments = [Segment(name, 1, (), (), tree, (-1,) * len(tree)) for name, tree in (("a", (1,)), ("b", (2, 3)))]
    passes = [knowledge.drafting.join(1, 0.0, segment) for segment in segments]
    for shared in passes:
        knowledge.drafted(shared, 0.005)
    assert passes[0] is passes[1] and passes[0].width == sum(segment.rows for segment in segments)
    assert knowledge.local.mean == 0.005


def test_what_code_takes_between_passes_is_time_and_a_draft_pass_pays_for_it() -> None:
    quick, slow = Knowledge(), Knowledge()
    for turn in range(0, 20, 2):
        for knowledge, code in ((quick, 0.0), (slow, 0.002)):
            drafted = [knowledge.drafting.join(turn, 0.1 * turn, segment(tree=4)) for _ in range(2)]
            for one in drafted:
                knowledge.drafted(one, 0.1 * turn + 0.005)
            for one in drafted:
                knowledge.resumed(one, 0.1 * turn + 0.005 + code)
            (verified,) = shared(knowledge, turn + 1, 0.1 * turn + 0.05, [segment()])
            knowledge.verified(verified, 4, 0.1 * turn + 0.08)
            knowledge.resumed(verified, 0.1 * turn + 0.08 + code)
    assert slow.local.seconds(4) - quick.local.seconds(4) == pytest.approx(0.002)
    assert quick.verify.seconds(1) == slow.verify.seconds(1) == pytest.approx(0.03), "they are alike, drafts or not"
    assert (quick.pace.rate, slow.pace.rate) == pytest.approx((4 / 0.035, 4 / 0.039), rel=0.02)


def test_a_turn_that_follows_is_told_of_once() -> None:
    knowledge = Knowledge()
    one = knowledge.drafting.join(1, 0.0, segment())
    knowledge.resumed(one, 5.0)
    assert knowledge.local.seconds(1) == 0.0, "it was never over"
    knowledge.verified(one, 1, 1.0)
    for at in (1.5, 9.0):
        knowledge.resumed(one, at)
    assert knowledge.local.seconds(1) == 0.5


def test_reading_a_prompt_says_nothing_of_what_a_draft_pass_takes() -> None:
    knowledge = Knowledge()
    drafted(knowledge, 1, 2.0, tokens=SHORT_DRAFT_PROMPT + 1)
    assert knowledge.local.mean == 0.0
    drafted(knowledge, 2, 0.005)
    assert knowledge.local.mean == 0.005


def test_a_draft_pass_that_was_slow_once_is_tried_again_and_then_judged_by_what_it_takes_by_now() -> None:
    knowledge = Knowledge()
    drafted(knowledge, 0, 10.0)
    for turn in range(1, RETRY_ROUNDS + 1):
        assert not drafts(knowledge, 0.9)
        verified(knowledge, turn)
    assert drafts(knowledge, 0.05) and not drafts(knowledge, 0.0)
    drafted(knowledge, RETRY_ROUNDS + 1, 0.005)
    assert knowledge.local.mean == 0.005
    assert drafts(knowledge, 0.9) and not drafts(knowledge, 0.05)
