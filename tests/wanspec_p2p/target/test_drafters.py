from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.target_benches import PoolBench
from tests.support.target_kit import FakeNode, Mint, target_alone, until
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import CloseCode, LinkClosed
from wanspec_p2p.links import absence
from wanspec_p2p.links.memory import Path
from wanspec_p2p.protocol.node_to_target import Decline, Draft
from wanspec_p2p.protocol.target_to_node import Close
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import LEEWAY_SECONDS
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.target import drafters, retention
from wanspec_p2p.target.drafters import ENOUGH_DECLINED, ORPHAN_SECONDS, RENEWAL_SECONDS
from wanspec_p2p.types import Sampling

LEASE_SECONDS = 600


async def settled() -> None:
    await asyncio.sleep(0.5)


# Who is admitted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"node": Identity.generate().peer_id}, "for another node"),
        ({"target": Identity.generate().peer_id}, "for another target"),
        ({"issued": 1_700_000_000, "expires": 1_700_000_600}, "has expired"),
        ({"issued": 1_900_000_000, "expires": 1_900_000_600}, "not valid yet"),
    ],
)
@in_virtual_time
async def test_a_lease_that_does_not_admit_this_node_here_and_now_is_refused(
    claims: dict[str, object], words: str
) -> None:
    async with PoolBench() as bench:
        identity = Identity.generate()
        node = await bench.dial(identity)
        await node.attach(bench.mint.lease(identity.peer_id, **claims))
        refusal = await node.refused()
        assert refusal.code == CloseCode.LEASE_REFUSED
        assert words in str(refusal)
        assert bench.pool.attached == []
        assert bench.came == bench.went == 0


@in_virtual_time
async def test_a_lease_of_another_coordinator_is_refused() -> None:
    async with PoolBench() as bench:
        identity = Identity.generate()
        node = await bench.dial(identity)
        await node.attach(Mint(bench.clock, bench.target).lease(identity.peer_id))
        assert "not signed by this coordinator" in str(await node.refused())


@in_virtual_time
async def test_after_a_change_of_key_leases_of_the_new_one_count_and_who_is_attached_stays() -> None:
    async with PoolBench() as bench:
        attached, late = await bench.node(), Identity.generate()
        before = bench.mint.lease(late.peer_id)
        bench.mint.identity = Identity.generate()
        bench.pool.follow(bench.mint.identity.public_key)
        node = await bench.dial(late)
        await node.attach(before)
        assert "not signed by this coordinator" in str(await node.refused())
        again = await bench.dial(late)
        await again.attach(bench.mint.lease(late.peer_id))
        await until(lambda: set(bench.pool.attached) == {attached.identity.peer_id, late.peer_id})


@in_virtual_time
async def test_a_drafter_with_another_tokenizer_is_refused_with_both_named() -> None:
    async with PoolBench(tokenizer="a" * 64) as bench:
        identity = Identity.generate()
        node = await bench.dial(identity)
        await node.attach(bench.mint.lease(identity.peer_id, tokenizer="b" * 64))
        refusal = await node.refused()
        assert refusal.code == CloseCode.TOKENIZER_MISMATCH
        assert "a" * 64 in str(refusal) and "b" * 64 in str(refusal)


@in_virtual_time
async def test_a_revoked_lease_ends_its_link_and_admits_nobody_again() -> None:
    async with PoolBench() as bench:
        identity, other = Identity.generate(), await bench.node()
        node = await bench.node(identity, jti="bad")
        runner = bench.session()
        bench.pool.revoke("bad", "its owner cheats")
        refusal = await node.refused()
        assert (refusal.code, str(refusal)) == (CloseCode.LEASE_REFUSED, "its owner cheats")
        await settled()
        assert bench.pool.attached == list(runner.session.drafters) == [other.identity.peer_id]
        again = await bench.dial(identity)
        await again.attach(bench.mint.lease(identity.peer_id, jti="bad"))
        assert "was revoked" in str(await again.refused())
        await bench.finish()


@in_virtual_time
async def test_revocations_without_end_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafters, "MAX_REVOKED", 4)
    async with PoolBench() as bench:
        for number in range(8):
            bench.pool.revoke(f"lease-{number}", "")
        for number, admitted in ((3, True), (4, False), (7, False)):
            identity = Identity.generate()
            node = await bench.dial(identity)
            await node.attach(bench.mint.lease(identity.peer_id, jti=f"lease-{number}"))
            await settled()
            assert (identity.peer_id in bench.pool.attached) is admitted


# How long -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_lease_that_is_not_renewed_ends() -> None:
    async with PoolBench() as bench:
        bench.pool.coordinator_found()
        node = await bench.node()
        bench.session()
        await asyncio.sleep(LEASE_SECONDS + LEEWAY_SECONDS - 1)
        bench.pool.close_expired()
        await settled()
        assert bench.pool.attached
        await asyncio.sleep(1)
        bench.pool.close_expired()
        refusal = await node.refused()
        assert (refusal.code, str(refusal)) == (CloseCode.LEASE_REFUSED, "the lease has expired")
        await bench.finish()


@in_virtual_time
async def test_a_renewed_lease_goes_on_and_receipts_name_the_newest() -> None:
    async with PoolBench() as bench:
        bench.pool.coordinator_found()
        identity = Identity.generate()
        node = await bench.node(identity, jti="old")
        runner = bench.session()
        await node.opened()
        assert runner.leases == {identity.peer_id: "old"}
        await asyncio.sleep(LEASE_SECONDS - 1)
        await node.attach(bench.mint.lease(identity.peer_id, jti="new"))
        await asyncio.sleep(LEEWAY_SECONDS + 10)
        bench.pool.close_expired()
        await settled()
        assert bench.pool.attached == [identity.peer_id]
        assert runner.leases == {identity.peer_id: "new"}
        await bench.finish()


@in_virtual_time
async def test_a_renewal_that_is_not_one_ends_the_link() -> None:
    async with PoolBench() as bench:
        node = await bench.node()
        await node.attach(bench.mint.lease(Identity.generate().peer_id))
        assert "for another node" in str(await node.refused())


@in_virtual_time
async def test_while_the_coordinator_is_away_an_attached_lease_is_honoured_longer() -> None:
    async with PoolBench() as bench:
        bench.pool.coordinator_found()
        node = await bench.node()
        bench.pool.coordinator_lost()
        await asyncio.sleep(LEASE_SECONDS + ORPHAN_SECONDS - 1)
        bench.pool.close_expired()
        await settled()
        assert bench.pool.attached
        await asyncio.sleep(1)
        bench.pool.close_expired()
        assert (await node.refused()).code == CloseCode.LEASE_REFUSED


@in_virtual_time
async def test_a_coordinator_that_is_back_has_time_to_renew() -> None:
    async with PoolBench() as bench:
        bench.pool.coordinator_found()
        node = await bench.node()
        bench.pool.coordinator_lost()
        await asyncio.sleep(LEASE_SECONDS + 300)
        bench.pool.coordinator_found()
        await asyncio.sleep(RENEWAL_SECONDS - 1)
        bench.pool.close_expired()
        await settled()
        assert bench.pool.attached
        await asyncio.sleep(1)
        bench.pool.close_expired()
        assert (await node.refused()).code == CloseCode.LEASE_REFUSED


@in_virtual_time
async def test_when_the_target_stops_its_nodes_are_told() -> None:
    async with PoolBench() as bench:
        nodes = [await bench.node(), await bench.node()]
        bench.pool.close()
        for node in nodes:
            ending = await node.ending()
            assert isinstance(ending, LinkClosed) and "the target stops" in str(ending)
        await until(lambda: bench.went == 2)


# Who drafts where -----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_gets_its_drafters_as_they_come_each_in_a_lane_of_its_own() -> None:
    async with PoolBench(per_session=2) as bench:
        runner = bench.session()
        await settled()
        assert runner.session.drafters == {}
        nodes = [await bench.node() for _ in range(3)]
        assert runner.session.drafters == {nodes[0].identity.peer_id: 0, nodes[1].identity.peer_id: 1}
        assert [(await node.opened()).lane for node in nodes[:2]] == [0, 1]
        await bench.finish()


@in_virtual_time
async def test_a_place_that_falls_vacant_is_filled() -> None:
    async with PoolBench(per_session=2) as bench:
        nodes = [await bench.node() for _ in range(3)]
        runner = bench.session()
        await settled()
        first, second = runner.session.drafters
        spare = ({node.identity.peer_id for node in nodes} - {first, second}).pop()
        next(node for node in nodes if node.identity.peer_id == first).transport.disconnect()
        await settled()
        assert runner.session.drafters == {second: 1, spare: 0}
        await bench.finish()


@in_virtual_time
async def test_who_declines_is_replaced_and_not_asked_again_in_that_session() -> None:
    async with PoolBench(per_session=1) as bench:
        nodes = [await bench.node(), await bench.node()]
        runner = bench.session()
        await settled()
        for node in nodes:
            opened = await node.opened()
            await node.link.send(Decline(session=opened.session, reason="no room"))
            await settled()
        assert runner.session.drafters == {}
        late = await bench.node()
        assert list(runner.session.drafters) == [late.identity.peer_id]
        await bench.finish()


@in_virtual_time
async def test_who_declined_is_asked_again_when_it_has_attached_anew() -> None:
    async with PoolBench(per_session=1) as bench:
        identity = Identity.generate()
        node = await bench.node(identity)
        runner = bench.session()
        opened = await node.opened()
        await node.link.send(Decline(session=opened.session, reason="no room"))
        await node.close()
        await settled()
        again = await bench.node(identity)
        assert (await again.opened()).id == "s"
        assert list(runner.session.drafters) == [identity.peer_id]
        await bench.finish()


@in_virtual_time
async def test_a_node_that_dials_again_takes_its_sessions_along() -> None:
    """The older link may be dead without anybody knowing: the session must not lose its drafter to it."""
    async with PoolBench(per_session=1) as bench:
        identity = Identity.generate()
        first = await bench.node(identity)
        runner = bench.session()
        assert (await first.opened()).id == "s"
        second = await bench.node(identity)
        opened = await second.opened()
        assert (opened.id, opened.prefix) == ("s", (1, 2, 3))
        assert (await first.refused()).code == CloseCode.REPLACED
        await settled()
        assert runner.session.drafters == {identity.peer_id: 0}
        assert bench.pool.attached == [identity.peer_id]
        await second.draft(opened, target_alone(bench.model, (1, 2, 3), 6, Sampling()))
        await settled()
        await bench.finish()
        assert runner.session.stats.won_by_peer == {identity.peer_id: 5}


@in_virtual_time
async def test_other_owners_then_other_sites_then_the_least_busy_are_preferred() -> None:
    async with PoolBench(per_session=2) as bench:
        a1 = await bench.node(owner="a", site="x")
        a2 = await bench.node(owner="a", site="y")
        b1 = await bench.node(owner="b", site="x")
        b2 = await bench.node(owner="b", site="y")
        owners = {n.identity.peer_id: n for n in (a1, a2, b1, b2)}
        pairs = [bench.session(name) for name in ("one", "two")]
        await settled()
        chosen = [[owners[node] for node in runner.session.drafters] for runner in pairs]
        assert chosen == [[a1, b2], [a2, b1]]
        await bench.finish()


@in_virtual_time
async def test_who_brings_much_and_the_near_are_preferred_to_who_brings_nothing_and_the_far() -> None:
    async with PoolBench(per_session=2) as bench:
        far = await bench.node(back=Path(delay=2.0))
        liar, honest = await bench.node(), await bench.node()
        names = {node.identity.peer_id: name for node, name in ((far, "far"), (liar, "liar"), (honest, "honest"))}
        links = [bench.pool.link(node) for node in names]
        await until(lambda: all(link is not None and link.rtt is not None for link in links))
        knowledge = Knowledge()
        for _ in range(20):
            knowledge.contributed(liar.identity.peer_id, 0, bench.clock.monotonic())
            knowledge.contributed(honest.identity.peer_id, 2, bench.clock.monotonic())
        runner = bench.session(knowledge=knowledge)
        await settled()
        assert [names[node] for node in runner.session.drafters] == ["honest", "liar"]
        await bench.finish()


@in_virtual_time
async def test_nodes_take_turns_where_nothing_else_tells_them_apart() -> None:
    async with PoolBench(per_session=1) as bench:
        for _ in range(3):
            await bench.node()
        bench.gate.set()
        asked: Counter[str] = Counter()
        for number in range(9):
            runner = bench.session(f"s{number}")
            await bench.finish()
            asked.update(runner.leases.keys())
        assert sorted(asked.values()) == [3, 3, 3]


@in_virtual_time
async def test_a_session_that_is_over_is_closed_at_its_nodes_and_supplied_no_more() -> None:
    async with PoolBench(per_session=2) as bench:
        node = await bench.node()
        runner = bench.session()
        opened = await node.opened()
        await bench.finish()
        while not isinstance(message := await node.link.receive(), Close):
            pass
        assert message.session == opened.session
        await bench.node()
        assert runner.session.drafters == {}
        assert bench.pool.sessions == 0


@in_virtual_time
async def test_a_link_that_is_being_closed_has_no_session_and_gets_none() -> None:
    async with PoolBench(per_session=1) as bench:
        back = Path()
        node = await bench.node(jti="bad", back=back)
        runner = bench.session()
        await node.opened()
        back.capacity = 0  # it takes nothing any more, and closing its link takes its time
        bench.pool.revoke("bad", "")
        second = bench.session("second")
        await asyncio.sleep(0.1)
        assert bench.pool.attached == [node.identity.peer_id]
        assert runner.session.drafters == second.session.drafters == {}
        other = await bench.node()
        assert list(runner.session.drafters) == list(second.session.drafters) == [other.identity.peer_id]
        await bench.finish()
        await until(lambda: bench.pool.attached == [other.identity.peer_id])


@in_virtual_time
async def test_what_can_be_told_of_a_pool() -> None:
    async with PoolBench() as bench:
        node = await bench.node(owner="lab-b")
        assert bench.pool.attached == [node.identity.peer_id]
        link = bench.pool.link(node.identity.peer_id)
        assert link is not None and (link.lease.owner, link.load) == ("lab-b", 0)
        bench.session()
        await node.opened()
        assert (link.load, link.opened, bench.pool.sessions) == (1, 1, 1)
        assert bench.pool.link(Identity.generate().peer_id) is None
        await bench.finish()


# Who is of no use -----------------------------------------------------------------------------------------------------


class PacedBench(PoolBench):
    """Its passes take 50 ms, so that answers last."""

    async def _before(self) -> None:
        await asyncio.sleep(0.05)


@in_virtual_time
async def test_no_end_of_nodes_is_asked_for_a_session_that_nobody_takes() -> None:
    async with PoolBench(per_session=1) as bench:
        bench.session()
        await settled()
        for number in range(ENOUGH_DECLINED):
            assert bench.pool.lacking == 1, number
            node = await bench.node()
            opened = await node.opened()
            await node.link.send(Decline(session=opened.session, reason="the prompt is too long"))
            await settled()
        assert bench.pool.lacking == 0
        bench.session("another")
        await settled()
        assert bench.pool.lacking == 0, "those who declined the first are there for the second"
        await bench.finish()


@in_virtual_time
async def test_nodes_beyond_those_wanted_are_let_go_when_nobody_has_used_them_for_a_while() -> None:
    async with PoolBench(per_session=1) as bench:
        leases: dict[FakeNode, str] = {}
        for _ in range(4):
            node = await bench.dial()
            leases[node] = bench.mint.lease(node.identity.peer_id)
            await node.attach(leases[node])
        await settled()
        nodes = list(leases)
        runner = bench.session()
        await settled()
        (busy,) = runner.session.drafters
        await asyncio.sleep(retention.IDLE_SECONDS - 2.0)
        assert not bench.pool.comparing, "there are more than enough"
        assert not bench.pool.release()
        await settled()
        assert len(bench.pool.attached) == 4, "not yet"
        await asyncio.sleep(2.0)
        bench.pool.release()
        await settled()
        assert bench.pool.attached == [busy]
        assert bench.pool.comparing
        assert set(bench.pool.released) == {node.identity.peer_id for node in nodes} - {busy}
        assert bench.pool.unwanted == [busy], "where one is missing, they are welcome"
        gone = [node for node in nodes if node.identity.peer_id not in bench.pool.attached]
        assert {(await node.refused()).code for node in gone} == {CloseCode.IDLE}
        stubborn = await bench.dial(gone[1].identity)
        await stubborn.attach(leases[gone[1]])
        assert (await stubborn.refused()).code == CloseCode.LEASE_REFUSED, (
            "who was let go is not back by the same lease"
        )
        again = await bench.node(gone[0].identity)
        assert again.identity.peer_id in bench.pool.attached, "it did nothing wrong"
        await bench.finish()


@in_virtual_time
async def test_a_node_that_drafted_for_nothing_is_let_go_and_not_asked_for_until_later() -> None:
    async with PacedBench(per_session=2) as bench:
        node = await bench.node(jti="first")
        useless, knowledge = node.identity.peer_id, Knowledge()
        runner = bench.session(count=700, knowledge=knowledge)
        refusal = await node.refused()
        assert runner.rtts == {useless: 0.0}, "the receipt says how far it was"
        assert (refusal.code, str(refusal)) == (CloseCode.IDLE, "nothing it drafted was of use")
        await settled()
        assert bench.pool.attached == [] and bench.pool.unwanted == [useless]
        again = await bench.dial(node.identity)
        await again.attach(bench.mint.lease(useless))
        assert (await again.refused()).code == CloseCode.IDLE
        await asyncio.sleep(drafters.DISMISSED_SECONDS)
        assert bench.pool.unwanted == []
        await bench.node(node.identity)
        assert bench.pool.attached == [useless]
        bench.session("another", count=100, knowledge=knowledge)
        await settled()
        assert bench.pool.attached == [useless], "it has another chance"
        await bench.finish()


@in_virtual_time
async def test_a_node_that_no_session_can_be_given_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong: it would hold a lane, and draft nothing."""

    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    async with PoolBench() as bench:
        runner = bench.session()
        monkeypatch.setattr(runner, "join", broken)
        node = await bench.dial()
        await node.attach(bench.mint.lease(node.identity.peer_id))
        with pytest.raises(RuntimeError, match="a bug"):
            await bench._serving.pop()
        assert bench.pool.attached == []
        monkeypatch.undo()
        await bench.finish()


@in_virtual_time
async def test_dismissals_without_end_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "MAX_ABSENT", 2)
    async with PacedBench(per_session=4) as bench:
        nodes = [await bench.node() for _ in range(4)]
        bench.session(count=700, knowledge=Knowledge())
        for refusal in await asyncio.gather(*(node.refused() for node in nodes)):
            assert refusal.code == CloseCode.IDLE
        await settled()
        assert len(bench.pool.unwanted) == 2
        await bench.finish()


@in_virtual_time
async def test_a_drafter_that_brings_little_loses_its_lane_to_one_that_brings_more() -> None:
    async with PacedBench(per_session=1) as bench:
        knowledge, now = Knowledge(), bench.clock.monotonic()
        poor, good = await bench.node(), await bench.node()
        for _ in range(20):
            knowledge.contributed(poor.identity.peer_id, 2, now)
            knowledge.contributed(good.identity.peer_id, 2, now)
        runner = bench.session(count=200, knowledge=knowledge)
        await settled()
        (first,) = runner.session.drafters
        node = poor if first == poor.identity.peer_id else good
        opened = await node.opened()
        await settled()
        assert list(runner.session.drafters) == [first], "it may still be reading the prompt"
        await node.draft(opened, [255])
        await until(lambda: list(runner.session.drafters) != [first])
        (second,) = runner.session.drafters
        assert {first, second} == {poor.identity.peer_id, good.identity.peer_id}
        assert runner.session.drafters == {second: 0}
        async for _ in node.verdicts():
            pass  # it ends with a Close
        await bench.finish()


# Hedging --------------------------------------------------------------------------------------------------------------


async def hedged(bench: PoolBench) -> None:
    await until(lambda: bench.pool.hedges > 0)


@in_virtual_time
async def test_a_silent_drafter_is_given_a_rival_on_its_lane_and_loses_it_to_the_first_draft() -> None:
    async with PacedBench(per_session=1) as bench:
        silent = await bench.node()
        runner = bench.session(count=200)
        opened = await silent.opened()
        spare = await bench.node()
        await hedged(bench)
        first, second = silent.identity.peer_id, spare.identity.peer_id
        assert runner.session.drafters == {first: 0, second: 0}
        await spare.draft(await spare.opened(), [1])
        await until(lambda: runner.session.drafters == {second: 0})
        assert [m async for m in silent.verdicts()]  # until it was closed
        await silent.draft(opened, [1])  # crossing the Close: nobody minds
        await settled()
        assert bench.pool.hedges == 1 and len(bench.pool.attached) == 2
        await bench.finish()


@in_virtual_time
async def test_a_drafter_that_speaks_again_keeps_its_lane() -> None:
    async with PacedBench(per_session=1) as bench:
        slow = await bench.node()
        runner = bench.session(count=200)
        opened = await slow.opened()
        spare = await bench.node()
        await hedged(bench)
        await slow.draft(opened, [1])
        await until(lambda: list(runner.session.drafters) == [slow.identity.peer_id])
        await spare.opened()
        async for _ in spare.verdicts():
            pass  # it ends with a Close
        await bench.finish()


@in_virtual_time
async def test_a_drafter_that_answers_in_its_usual_time_has_no_rival() -> None:
    async with PacedBench(per_session=1) as bench:
        node = await bench.node()
        runner = bench.session(count=100)
        opened = await node.opened()
        await bench.node()
        await node.draft(opened, [1])
        answer = [*opened.prefix]
        async for verdict in node.verdicts():
            answer += verdict.tail
            await asyncio.sleep(0.6)
            await node.link.send(
                Draft(session=opened.session, base_len=verdict.committed_len, base_hash=verdict.hash, tokens=(1,))
            )
        assert bench.pool.hedges == 0
        await bench.finish()
        assert runner.session.stats.rounds > 50


@in_virtual_time
async def test_without_a_spare_one_is_asked_for_and_takes_over_when_it_comes() -> None:
    async with PacedBench(per_session=1) as bench:
        silent = await bench.node()
        runner = bench.session(count=200)
        await silent.opened()
        assert bench.pool.lacking == 0
        went = bench.went
        await until(lambda: bench.pool.lacking == 1)
        assert bench.went > went
        spare = await bench.node()
        assert bench.pool.lacking == 0
        await hedged(bench)
        await spare.draft(await spare.opened(), [1])
        await until(lambda: list(runner.session.drafters) == [spare.identity.peer_id])
        await bench.finish()
        assert bench.pool.lacking == 0


@pytest.mark.parametrize("lost", ["silent", "spare"])
@in_virtual_time
async def test_a_rival_that_is_lost_leaves_the_lane_to_the_other(lost: str) -> None:
    async with PacedBench(per_session=1) as bench:
        nodes = {"silent": await bench.node()}
        runner = bench.session(count=200)
        await nodes["silent"].opened()
        nodes["spare"] = await bench.node()
        await hedged(bench)
        gone = nodes.pop(lost)
        (stays,) = nodes.values()
        gone.transport.disconnect()
        await until(lambda: runner.session.drafters == {stays.identity.peer_id: 0})
        await bench.finish()


@in_virtual_time
async def test_sessions_whose_drafters_all_declined_lack_some() -> None:
    async with PoolBench(per_session=2) as bench:
        node = await bench.node()
        bench.session()
        assert bench.pool.lacking == 0
        opened = await node.opened()
        assert bench.pool.lacking == 1
        await node.link.send(Decline(session=opened.session, reason="no room"))
        await until(lambda: bench.pool.lacking == 2)
        await bench.finish()
        assert bench.pool.lacking == 0
