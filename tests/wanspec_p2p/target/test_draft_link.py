from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.support.session_rows import prefix_hash
from tests.support.target_benches import PoolBench
from tests.support.target_kit import target_alone, until
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused
from wanspec_p2p.links.memory import Path
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Ping
from wanspec_p2p.protocol.node_to_target import Attach, Decline, Detach, Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.events import DraftArrived, TargetEvent
from wanspec_p2p.target import draft_link
from wanspec_p2p.target.draft_link import MAX_CREDIT, MAX_OLD_LEASES
from wanspec_p2p.types import Role, Sampling, TokenId


def answer(bench: PoolBench, count: int = 8) -> list[TokenId]:
    return target_alone(bench.model, (1, 2, 3), count, Sampling())


async def settled() -> None:
    """Let everything under way arrive."""
    await asyncio.sleep(0.5)


@in_virtual_time
async def test_what_a_node_drafts_rightly_is_accepted_and_told() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        runner = bench.session()
        opened = await node.opened()
        assert (opened.prefix, opened.prompt_len, opened.lane, opened.lanes) == ((1, 2, 3), 3, 0, 2)
        assert (opened.seed, opened.sampling) == (runner.session.spec.seed, runner.session.spec.sampling)
        await node.draft(opened, answer(bench)[:6])
        await settled()
        await bench.finish()
        verdict = await node.receive(Verdict)
        # The first pass began before the draft came, and settled one token without it.
        assert (verdict.committed_len, verdict.tail) == (4, ())
        assert verdict.hash == prefix_hash("s", (1, 2, 3, *answer(bench)[:1]))
        assert (await node.receive(Verdict)).committed_len == 10
        await node.receive(Close)
        assert runner.session.stats.won_by_peer == {node.identity.peer_id: 5}


@in_virtual_time
async def test_a_node_that_shows_no_lease_is_let_go() -> None:
    async with PoolBench() as bench:
        node = await bench.dial()
        refusal = await node.refused()
        assert refusal.code == CloseCode.LEASE_REFUSED
        assert "no lease was shown in time" in str(refusal)
        assert bench.clock.monotonic() < limits.HANDSHAKE_SECONDS + 1


@in_virtual_time
async def test_anything_before_the_lease_is_refused() -> None:
    async with PoolBench() as bench:
        node = await bench.dial()
        await node.link.send(Decline(session=1, reason="no"))
        assert "must be Attach" in str(await node.refused())
        assert bench.came == 0


@in_virtual_time
async def test_a_draft_for_a_session_that_is_not_open_is_ignored() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        opened = await node.opened()
        for handle in (opened.session + 1, limits.MAX_SESSIONS - 1):
            await node.link.send(Draft(session=handle, base_len=3, base_hash=bytes(8), tokens=(1,)))
        await node.draft(opened, answer(bench)[:4])
        await settled()
        await bench.finish()
        assert bench.pool.attached
        # … and so is one that crossed the end of its session.
        while not isinstance(await node.link.receive(), Close):
            pass
        await node.draft(opened, answer(bench)[:4])
        await settled()
        assert bench.pool.attached


@pytest.mark.parametrize("right", [True, False])
@in_virtual_time
async def test_a_node_that_drafts_beyond_its_credit_is_cut_off(right: bool) -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        opened = await node.opened()
        with capture_logs() as logs:
            for _ in range(opened.window.tokens // 8):
                await node.draft(opened, answer(bench) if right else [0] * 8)
            await settled()
            assert bench.pool.attached, "copies and nonsense within the credit are dropped, not punished"
            await node.draft(opened, answer(bench))
            refusal = await node.refused()
        assert refusal.code == CloseCode.POLICY_VIOLATION
        assert [line["node"] for line in logs if line["log_level"] == "warning"] == [node.identity.peer_id]
        await bench.finish()


@in_virtual_time
async def test_a_drafter_that_keeps_to_its_window_never_runs_out_of_credit() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.gate.set()
        runner = bench.session(count=400)
        opened = await node.opened()
        answer_so_far = answer(bench, 400)
        async with asyncio.timeout(60):
            async for verdict in node.verdicts():
                done = verdict.committed_len - 3
                await node.draft(opened, answer_so_far[done : done + opened.window.tokens], after=answer_so_far[:done])
        assert runner.session.answer_len == 400
        assert bench.pool.attached


@pytest.mark.parametrize("beyond", [0, 1])
@in_virtual_time
async def test_what_a_way_that_stood_still_holds_back_is_credit_saved_and_no_more(beyond: int) -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session(count=40)
        opened = await node.opened()
        bench.gate.set()
        verdicts = [await node.receive(Verdict) for _ in range(MAX_CREDIT // opened.window.tokens + 1)]
        assert {verdict.window for verdict in verdicts} == {None}, "more full windows were given than can be saved"
        bench.gate.clear()
        await settled()
        await node.draft(opened, [0] * MAX_CREDIT)
        await settled()
        assert bench.pool.attached
        await node.draft(opened, [0] * beyond)
        await settled()
        assert len(bench.pool.attached) == 1 - beyond
        await bench.finish()


@in_virtual_time
async def test_credit_that_was_given_stays_when_other_answers_end() -> None:
    """What was drafted for them, and for those that go on, may be under way."""
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session(count=1000)
        long = await node.opened()
        for number in range(7):
            bench.session(f"short-{number}", count=20)
        bench.gate.set()
        windows, ended = 0, 0
        while ended < 7:
            message = await node.link.receive()
            windows += isinstance(message, Open) or (isinstance(message, Verdict) and message.window is None)
            ended += isinstance(message, Close)
        bench.gate.clear()
        assert windows * long.window.tokens > 2 * MAX_CREDIT
        for _ in range(2 * MAX_CREDIT // 64):
            await node.draft(long, [0] * 64)
        await settled()
        assert bench.pool.attached
        await bench.finish()


@in_virtual_time
async def test_a_frame_that_is_no_message_ends_the_link_and_not_the_session() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        await node.opened()
        with capture_logs() as logs:
            await node.transport.send(b"\x92\x02garbage")
            assert (await node.refused()).code == CloseCode.INVALID_DATA
            await settled()
        assert [line["node"] for line in logs if line["log_level"] == "warning"] == [node.identity.peer_id]
        await bench.finish()


@in_virtual_time
async def test_a_node_that_broke_the_rules_is_not_given_its_session_once_more() -> None:
    async with PoolBench(per_session=1) as bench:
        node = await bench.node()
        runner = bench.session()
        await node.opened()
        await node.link.send(Attach(lease="no lease"))
        await settled()
        link = bench.pool.link(node.identity.peer_id)
        assert link is None and runner.session.drafters == {}
        with pytest.raises(PeerRefused):
            await node.link.receive()
        await bench.finish()


@in_virtual_time
async def test_a_node_that_reads_nothing_is_dropped_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_link, "MAX_WAITING", 8)
    async with PoolBench() as bench:
        slow = await bench.node(back=Path(capacity=2))
        good = await bench.node()
        bench.gate.set()
        bench.session(count=64)
        slow.link._reader.cancel()  # it takes nothing off the connection any more
        opened = await good.opened()
        async with asyncio.timeout(60):
            verdicts = [verdict.committed_len async for verdict in good.verdicts()]
        assert len(verdicts) == 63
        assert opened.session == 1
        await until(lambda: bench.pool.attached == [good.identity.peer_id])
        await bench.finish()


@in_virtual_time
async def test_a_node_that_detaches_is_let_go_and_its_link_closed() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        runner = bench.session()
        await node.opened()
        with capture_logs() as logs:
            await node.link.send(Detach(reason="its owner wants the GPU back"))
            assert isinstance(await node.ending(), LinkClosed)
        assert any("its owner wants the GPU back" in line.get("reason", "") for line in logs)
        assert runner.session.drafters == {}
        await bench.finish()


@in_virtual_time
async def test_a_declined_session_goes_on_without_that_node_and_the_link_stays() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        first = bench.session("one")
        opened = await node.opened()
        await node.link.send(Decline(session=opened.session, reason="no room"))
        await settled()
        assert first.session.drafters == {}
        second = bench.session("two")
        assert (await node.opened()).id == "two"
        assert list(second.session.drafters) == bench.pool.attached
        await bench.finish()


@in_virtual_time
async def test_a_session_is_declined_once() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        opened = await node.opened()
        await node.link.send(Decline(session=opened.session, reason="no room"))
        await settled()
        assert bench.pool.attached
        await node.link.send(Decline(session=opened.session, reason="no room"))
        assert (await node.refused()).code == CloseCode.POLICY_VIOLATION
        await bench.finish()


@in_virtual_time
async def test_a_decline_that_crossed_the_end_of_its_session_is_ignored() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session(count=1)
        opened = await node.opened()
        await bench.finish()
        await node.link.send(Decline(session=opened.session, reason="no room"))
        await settled()
        assert bench.pool.attached


@in_virtual_time
async def test_leases_that_are_no_newer_end_the_link_after_a_few() -> None:
    async with PoolBench() as bench:
        identity = Identity.generate()
        node = await bench.node(identity)
        for _ in range(3):
            await asyncio.sleep(1.0)
            lease = bench.mint.lease(identity.peer_id)
            for _ in range(1 + MAX_OLD_LEASES):
                await node.attach(lease)
        await settled()
        assert bench.pool.attached
        await node.attach(lease)
        assert (await node.refused()).code == CloseCode.POLICY_VIOLATION


@in_virtual_time
async def test_a_broken_link_is_gone_at_once() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        runner = bench.session()
        await node.opened()
        node.transport.disconnect()
        await until(lambda: bench.pool.attached == [])
        assert runner.session.drafters == {}
        assert bench.went
        await bench.finish()


@in_virtual_time
async def test_a_node_that_falls_silent_is_dropped() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        runner = bench.session()
        await node.opened()
        node.transport.partition()
        await until(lambda: bench.pool.attached == [])
        assert bench.clock.monotonic() < limits.SILENCE_SECONDS + 5
        assert runner.session.drafters == {}
        node.transport.heal()
        await bench.finish()


class Flood:
    """A `Link` on which another frame is always there already."""

    role, rtt, jitter, greeted = Role.NODE, None, None, None

    def __init__(self, bench: PoolBench) -> None:
        self.peer = Identity.generate().peer_id
        self.received = 0
        self._lease = bench.mint.lease(self.peer)

    async def receive(self) -> NodeToTarget:
        self.received += 1
        if self.received == 1:
            return Attach(lease=self._lease)
        return Draft(session=1, base_len=3, base_hash=bytes(8), tokens=(1,))

    async def send(self, message: TargetToNode) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


@in_virtual_time
async def test_a_flood_of_frames_leaves_everybody_else_their_turns() -> None:
    async with PoolBench() as bench:
        flood = Flood(bench)
        bench.session()
        await asyncio.sleep(0)
        serving = asyncio.create_task(bench.pool.serve(flood))
        for _ in range(100):
            await asyncio.sleep(0)
        assert 50 < flood.received <= 101
        assert bench.pool.attached
        bench.pool.close()
        await serving
        await bench.finish()


@in_virtual_time
async def test_round_trip_times_are_measured() -> None:
    async with PoolBench() as bench:
        node = await bench.node(back=Path(delay=0.25))
        await until(lambda: (link := bench.pool.link(node.identity.peer_id)) is not None and link.rtt is not None)
        link = bench.pool.link(node.identity.peer_id)
        assert link is not None and link.rtt == pytest.approx(0.25, abs=0.01)
        await node.link.send(Ping(id=1, at=0.0))
        await settled()
        assert bench.pool.attached


@pytest.mark.parametrize("pongs", [True, False])
@in_virtual_time
async def test_a_node_without_a_pong_has_heard_all_it_was_told(monkeypatch: pytest.MonkeyPatch, pongs: bool) -> None:
    async with PoolBench() as bench:
        node = await bench.dial(back=Path(delay=0.25))
        if not pongs:
            monkeypatch.setattr(node.link._pulse, "owe", lambda ping: None)
        await node.attach(bench.mint.lease(node.identity.peer_id))
        await settled()
        runner = bench.session()
        events: list[TargetEvent] = []
        feed = runner.feed
        monkeypatch.setattr(runner, "feed", lambda event: (events.append(event), feed(event)))
        await node.draft(await node.opened(), answer(bench)[:2])
        await settled()
        (draft,) = [event for event in events if isinstance(event, DraftArrived)]
        assert draft.at - draft.heard == (pytest.approx(0.25) if pongs else 0.0)
        await bench.finish()
        assert runner.rtts == {node.identity.peer_id: pytest.approx(0.25)}, "the handshake tells as well"


@in_virtual_time
async def test_when_a_links_session_numbers_are_used_up_it_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SESSIONS", 3)
    async with PoolBench() as bench:
        identity = Identity.generate()
        node = await bench.node(identity)
        for name in "ab":
            bench.session(name)
            assert isinstance(await node.receive(Open), Open)
        assert "dial again" in str(await node.ending())
        again = await bench.node(identity)
        assert {(await again.opened()).id for _ in "ab"} == {"a", "b"}
        await bench.finish()


@in_virtual_time
async def test_a_draft_without_a_hash_goes_on_where_the_one_before_it_ended() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        runner = bench.session()
        opened = await node.opened()
        right = answer(bench)
        await node.draft(opened, right[:3])
        await node.link.send(Draft(session=opened.session, base_len=6, base_hash=b"", tokens=tuple(right[3:6])))
        await settled()
        await bench.finish()
        assert runner.session.stats.won_by_peer == {node.identity.peer_id: 5}
        assert runner.session.stats.of(node.identity.peer_id).unknown == 0


@pytest.mark.parametrize("first", [True, False])
@in_virtual_time
async def test_a_draft_without_a_hash_that_goes_on_from_nowhere_is_refused(first: bool) -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        opened = await node.opened()
        if not first:
            await node.draft(opened, answer(bench)[:3])
        await node.link.send(Draft(session=opened.session, base_len=5, base_hash=b"", tokens=(1,)))
        refusal = await node.refused()
        assert refusal.code == CloseCode.PROTOCOL_ERROR
        await bench.finish()


@in_virtual_time
async def test_a_window_is_told_when_it_changes() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        bench.session()
        opened = await node.opened()
        right = answer(bench)
        await node.draft(opened, [right[0], right[1] ^ 1])  # the second is wrong, and verified in the second pass
        await settled()
        await bench.finish()
        windows = [(await node.receive(Verdict)).window for _ in range(4)]
        told = [window for window in windows if window is not None]
        assert told[0].positions < opened.window.positions
        assert len(told) < len(windows)
