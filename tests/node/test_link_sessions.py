from __future__ import annotations

import asyncio

import msgspec
import pytest

from node.drafting import DraftingEngine
from node.limits import LendingLimits
from node.link_sessions import LinkSessions
from tests.support.fake_draft_target import FakeDraftTarget
from tests.support.scripted_models import ScriptedModel
from tests.support.session_rows import SureTable, prefix_hash
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import RemoteProtocolError
from wanspec_p2p.protocol.node_to_target import Decline, Draft
from wanspec_p2p.protocol.target_to_node import Close, Outlook, Verifying
from wanspec_p2p.speculation.calibration import RankTable

opened = FakeDraftTarget.open
verdict = FakeDraftTarget.verdict


class Desk:
    """Sessions on an engine that only runs when a test says so."""

    def __init__(self, slots: int = 2, max_prefix: int = 10) -> None:
        self.model = ScriptedModel(1)
        self.engine = DraftingEngine(self.model, clock=ManualClock())
        self.said: list[Draft | Decline] = []
        limits = LendingLimits(slots=slots, max_prefix=max_prefix)
        self.sessions = LinkSessions(self.engine, limits, self.said.append, SureTable())

    async def draft(self) -> None:
        """Run the engine until it has nothing left to do."""
        task = asyncio.create_task(self.engine.run())
        for _ in range(100):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def declines(self) -> list[tuple[int, str]]:
        return [(message.session, message.reason) for message in self.said if isinstance(message, Decline)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@in_virtual_time
async def test_drafts_carry_the_number_of_their_session(desk: Desk) -> None:
    desk.sessions.handle(opened(7, (1, 2)))
    desk.sessions.handle(opened(8, (3,)))
    await desk.draft()
    assert {message.session for message in desk.said} == {7, 8}
    assert all(isinstance(message, Draft) for message in desk.said)
    assert len(desk.sessions) == desk.engine.sessions == 2
    assert (desk.sessions.opened, desk.sessions.drafted) == (2, 16)


@in_virtual_time
async def test_what_a_verdict_tells_of_is_run_and_not_sent(desk: Desk) -> None:
    desk.sessions.handle(opened(7, (1, 2), window=4))
    told = msgspec.structs.replace(verdict(7, (1, 2, 9), 1, window=4), outlook=Outlook((30, 31), (), (120, 120)))
    desk.sessions.handle(told)
    await desk.draft()
    drafts = [message for message in desk.said if isinstance(message, Draft)]
    assert int(desk.model.row((1, 2, 9, 30, 31)).argmax()) in {token for d in drafts for token in d.tokens}
    assert {30, 31}.isdisjoint(token for d in drafts for token in d.tokens)


@in_virtual_time
async def test_two_links_may_use_the_same_names_and_numbers(desk: Desk) -> None:
    heard: list[Draft | Decline] = []
    others = LinkSessions(desk.engine, LendingLimits(slots=2, max_prefix=10), heard.append)
    desk.sessions.handle(opened(1, (1, 2), name="s"))
    others.handle(opened(1, (9, 9), name="s"))
    await desk.draft()
    first, second = ([t for m in said if isinstance(m, Draft) for t in m.tokens] for said in (desk.said, heard))
    assert first[0] == int(desk.model.row((1, 2)).argmax())
    assert second[0] == int(desk.model.row((9, 9)).argmax())
    others.close()
    assert len(desk.sessions) == desk.engine.sessions == 1


@in_virtual_time
async def test_what_one_target_says_came_true_changes_no_chance_of_anothers(desk: Desk) -> None:
    others = LinkSessions(desk.engine, LendingLimits(slots=2, max_prefix=10), lambda message: None)
    before = others.table.typical()
    desk.sessions.table = RankTable()
    desk.sessions.handle(opened(1, (1, 2), name="s"))
    await desk.draft()
    wrong = (int(desk.model.row((1, 2)).argmax()) + 1) % 256
    desk.sessions.handle(verdict(1, (1, 2, wrong), 1, name="s"))
    assert desk.sessions.table.typical() != before
    assert others.table.typical() == before


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (range(11), "the prefix has 11 tokens, at most 10 are taken"),
        ((1, 256), "the prefix holds a token outside this drafter's vocabulary"),
    ],
)
def test_what_cannot_be_drafted_for_is_declined(desk: Desk, prefix: tuple[int, ...], reason: str) -> None:
    desk.sessions.handle(opened(1, tuple(prefix)))
    assert desk.said == [Decline(session=1, reason=reason)]
    assert desk.engine.sessions == 0


def test_a_session_beyond_the_slots_is_declined_until_one_closes(desk: Desk) -> None:
    for handle in (1, 2, 3):
        desk.sessions.handle(opened(handle, (1,)))
    assert desk.declines() == [(3, "all 2 slots are busy")]
    desk.sessions.handle(Close(session=1))
    desk.sessions.handle(opened(4, (1,)))
    assert desk.declines() == [(3, "all 2 slots are busy")]


@pytest.mark.parametrize(
    "message", [verdict(5, (1, 2), 1), Verifying(session=5, microseconds=30_000), Close(session=5)]
)
def test_a_session_nobody_opened_is_the_targets_fault(desk: Desk, message: Close) -> None:
    with pytest.raises(RemoteProtocolError, match="session 5 is not open"):
        desk.sessions.handle(message)


def test_opening_twice_is_the_targets_fault(desk: Desk) -> None:
    desk.sessions.handle(opened(5, (1,)))
    with pytest.raises(RemoteProtocolError, match="already open"):
        desk.sessions.handle(opened(5, (1,)))


def test_a_prompt_longer_than_the_prefix_is_the_targets_fault(desk: Desk) -> None:
    with pytest.raises(RemoteProtocolError, match="prompt_len"):
        desk.sessions.handle(msgspec.structs.replace(opened(5, (1,)), prompt_len=2))


def test_what_crosses_our_decline_is_nobodys_fault(desk: Desk) -> None:
    desk.sessions.handle(opened(5, tuple(range(11))))
    desk.sessions.handle(Verifying(session=5, microseconds=30_000))
    desk.sessions.handle(verdict(5, (1, 2), 1))
    desk.sessions.handle(Close(session=5))
    assert len(desk.said) == 1


@in_virtual_time
async def test_a_verdict_moves_the_session_on(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2), window=4))
    await desk.draft()
    (draft,) = desk.said
    assert isinstance(draft, Draft)
    desk.said.clear()
    desk.sessions.handle(verdict(1, (1, 2, *draft.tokens), 0, window=4))
    await desk.draft()
    assert [len(message.tokens) for message in desk.said if isinstance(message, Draft)] == [4]


@in_virtual_time
async def test_a_verdict_that_does_not_fit_ends_that_session_alone(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2)))
    desk.sessions.handle(opened(2, (1, 2)))
    desk.sessions.handle(verdict(1, (9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9), 1))
    ((session, reason),) = desk.declines()
    assert session == 1
    assert "does not fit" in reason
    assert len(desk.sessions) == 1


@in_virtual_time
async def test_a_lost_link_frees_every_slot(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2)))
    desk.sessions.handle(opened(2, (1, 2)))
    desk.sessions.close()
    await desk.draft()
    assert desk.engine.sessions == 0
    assert desk.said == []
    assert desk.model.caches == {}


@in_virtual_time
async def test_a_draft_that_goes_on_where_the_last_one_ended_names_no_hash(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2), name="s"))
    await desk.draft()
    first, second = (message for message in desk.said if isinstance(message, Draft))
    assert (first.base_len, first.base_hash) == (2, prefix_hash("s", (1, 2)))
    assert (second.base_len, second.base_hash) == (2 + len(first.tokens), b"")


@in_virtual_time
async def test_after_a_correction_the_hash_is_named_again(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2), name="s"))
    await desk.draft()
    wrong = (int(desk.model.row((1, 2)).argmax()) + 1) % 256
    desk.said.clear()
    desk.sessions.handle(verdict(1, (1, 2, wrong), 1, name="s"))
    await desk.draft()
    first = desk.said[0]
    assert isinstance(first, Draft)
    assert (first.base_len, first.base_hash) == (3, prefix_hash("s", (1, 2, wrong)))


@in_virtual_time
async def test_branches_run_below_several_places_at_once_and_name_them_all(desk: Desk) -> None:
    desk.sessions.table = RankTable()
    desk.sessions.handle(opened(1, (1, 2), name="s", window=40))
    await desk.draft()
    sizes = {len(segment.tree) for batch in desk.model.batches for segment in batch}
    assert max(sizes) == desk.engine.batch > 1
    places = {prefix_hash("s", (1, 2)): (1, 2)}
    for message in desk.said:
        assert isinstance(message, Draft)
        bases = [places[message.base_hash], *(places[chained] for _, chained in message.bases)]
        assert [len(base) for base in bases] == [message.base_len, *(length for length, _ in message.bases)]
        paths: list[tuple[int, ...]] = []
        for i, token in enumerate(message.tokens):
            parent = message.parents[i] if message.parents else i - 1
            paths.append((*(bases[-1 - parent] if parent < 0 else paths[parent]), token))
        places |= {prefix_hash("s", path): path for path in paths}
    assert len(places) == 1 + desk.sessions.drafted > 10, "each token went out once"
    assert any(isinstance(message, Draft) and message.bases for message in desk.said)


@in_virtual_time
async def test_the_lane_the_target_gives_decides_which_branches_are_run(desk: Desk) -> None:
    desk.sessions.table = RankTable()
    for lane in (0, 1):
        message = opened(1 + lane, (1, 2), name="s", window=40)
        desk.sessions.handle(msgspec.structs.replace(message, lane=lane, lanes=2))
    await desk.draft()
    run_by: list[set[int]] = [set(), set()]
    for batch in desk.model.batches[:2]:
        for segment in batch:
            run_by[int(segment.cache[-1])] |= set(segment.tree)
    assert run_by[0] != run_by[1]


@in_virtual_time
async def test_a_verdict_without_a_window_leaves_it_as_it_was(desk: Desk) -> None:
    desk.sessions.handle(opened(1, (1, 2), name="s", window=2))
    await desk.draft()
    right = int(desk.model.row((1, 2)).argmax())
    agrees = msgspec.structs.replace(verdict(1, (1, 2, right), 0, name="s"), window=None)
    desk.sessions.handle(agrees)
    await desk.draft()
    assert desk.sessions.drafted == 3  # two ahead of the prompt, then two ahead of its first token
