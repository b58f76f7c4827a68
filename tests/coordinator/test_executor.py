from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from coordinator.events import Disenrolled, Tick
from coordinator.ledger import LedgerError
from coordinator.settings import CoordinatorSettings
from tests.coordinator.conftest import coordinator_rig
from tests.support.fake_target import FakeTarget, answer_ids, node_registration, target_registration, until
from wanspec_p2p.errors import CloseCode, LinkClosed
from wanspec_p2p.protocol.common_messages import LeaseRevoked
from wanspec_p2p.protocol.coordinator_to_node import LeaseOffer, LeaseRenewed
from wanspec_p2p.protocol.coordinator_to_target import Drafters
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat, LeaseAnswer
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted, TargetHeartbeat
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import check
from wanspec_p2p.types import Role


async def test_a_lease_goes_out_even_where_the_ledger_does_not_take_it(rig: Any) -> None:
    target, node = await rig.target(), await rig.node()
    await rig.executor.ledger.close()
    with structlog.testing.capture_logs() as logs:
        await target.send(DraftersWanted("w", 1))
        await node.send(LeaseAnswer((await node.expect(LeaseOffer)).jti, accepted=True))
        await target.expect(Drafters)
        await rig.executor.shut_down("the end", retry_after=0.0)  # waits for what is being written
    assert any(entry["event"] == "lease not recorded" for entry in logs)


async def test_who_was_revoked_is_not_known_while_the_ledger_says_nothing(rig: Any) -> None:
    await rig.node()
    await rig.executor.ledger.close()
    with structlog.testing.capture_logs() as logs:
        await rig.executor.expel()
    assert [entry["event"] for entry in logs] == ["cannot tell who was revoked"]
    assert len(rig.executor.registry.nodes) == 1


async def test_the_line_that_says_why_a_link_is_closed_names_whose_it_is(rig: Any) -> None:
    node = await rig.node()
    with structlog.testing.capture_logs() as logs:
        rig.executor.post(Disenrolled(rig.clock.monotonic(), frozenset({node.peer_id})))
        await until(lambda: any(entry["event"] == "peer left" for entry in logs))
    (closing,) = [entry for entry in logs if entry["event"] == "closing"]
    assert (closing["peer"], closing["name"], closing["code"]) == (node.peer_id, "a node", CloseCode.NOT_ENROLLED)
    assert "revoked" in closing["reason"]
    assert rig.executor._behind == {}


async def test_a_lease_that_the_disk_did_not_take_is_written_once_it_does(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = rig.executor.ledger
    monkeypatch.setattr(ledger, "record_lease", refused)
    target, node = await rig.target(), await rig.node()
    await target.send(DraftersWanted("w", 1))
    offer = await node.expect(LeaseOffer)
    await node.send(LeaseAnswer(offer.jti, accepted=True))
    await target.expect(Drafters)
    with structlog.testing.capture_logs() as logs:
        await rig.executor.catch_up()
    assert [(entry["event"], entry["count"]) for entry in logs] == [("leases not recorded", 1)]
    rig.clock.advance(100.0)
    monkeypatch.undo()
    await rig.executor.catch_up()
    (lease,) = await ledger.leases_in_force(now=rig.clock.wall())
    assert (lease.jti, lease.seconds) == (offer.jti, 500.0)
    assert rig.executor._unrecorded == {}


async def refused(*_: Any, **__: Any) -> None:
    raise LedgerError("the disk is full")


async def test_leases_are_recorded_once_they_are_accepted(rig: Any) -> None:
    target, node = await rig.target(), await rig.node()
    for want, accepted in (("declined", False), ("w", True)):
        await target.send(DraftersWanted(want, 1))
        offer = await node.expect(LeaseOffer)
        await node.send(LeaseAnswer(offer.jti, accepted))
        await target.expect(Drafters)
    await rig.executor.shut_down("the end", retry_after=0.0)
    rows = await rig.executor.ledger._run(
        lambda database: database.execute("SELECT jti, node, target, pool, model FROM leases").fetchall()
    )
    assert rows == [(offer.jti, node.peer_id, target.peer_id, "default", "small")]


async def test_a_coordinator_that_is_started_again_goes_on_with_the_leases_in_force(
    settings: CoordinatorSettings,
) -> None:
    node_key, target_key = Identity.generate(), Identity.generate()
    async with coordinator_rig(settings) as rig:
        target, node = await rig.target(identity=target_key), await rig.node(identity=node_key)
        await target.send(DraftersWanted("w", 1))
        offer = await node.expect(LeaseOffer)
        await node.send(LeaseAnswer(offer.jti, accepted=True))
        await target.expect(Drafters)
        await rig.executor.shut_down("the end", retry_after=0.0)
    async with coordinator_rig(settings) as rig:
        registry = rig.executor.registry
        assert registry.awaited == {node.peer_id, target.peer_id}
        node = await rig.peer(node_registration(), identity=node_key)
        target = await rig.peer(target_registration(), identity=target_key, kind=FakeTarget)
        await until(lambda: registry.leases)
        rig.clock.advance(300.0)
        await node.send(Heartbeat(0, leases=(offer.jti,)))
        await target.send(TargetHeartbeat(0, 0, 0))
        now = rig.clock.monotonic()
        await until(lambda: all(p.seen == now for p in [*registry.nodes.values(), *registry.targets.values()]))
        rig.executor.post(Tick(now))
        renewed = await node.expect(LeaseRenewed)
        claims = check(renewed.lease, coordinator=rig.executor.identity.public_key, clock=rig.clock)
        assert (claims.jti, claims.target, claims.expires - claims.issued) == (offer.jti, target.peer_id, 600)
        assert target.pending(LeaseRevoked) == []


async def test_who_comes_while_we_are_going_is_sent_away(rig: Any) -> None:
    await rig.executor.shut_down("the end", retry_after=2.0)
    secret = await rig.secret(Role.NODE)
    peer = await rig.peer(node_registration(secret), registered=False)
    with pytest.raises(LinkClosed, match="the end"):
        await peer.expect(LeaseOffer)
    assert peer.link.retry_after == 2.0


async def test_a_target_that_hangs_loses_its_answers_to_another(rig: Any) -> None:
    targets = [await rig.target(), await rig.target()]
    for target in targets:
        target.script.pause_after = 2
    asking = asyncio.create_task(
        rig.http.post("/v1/completions", json={"model": "big", "prompt": "x", "max_tokens": 4})
    )
    await until(lambda: any(target.sent_tokens for target in targets))
    hung, heir = sorted(targets, key=lambda target: -target.sent_tokens)
    heir.script.pause_after = None
    hung.link._frames.transport.partition()
    with structlog.testing.capture_logs() as logs:
        await _three_seconds(rig)
        assert len((await asking).json()["wanspec"]["token_ids"]) == 4
    assert await _hung(rig) == {hung.peer_id: True, heir.peer_id: False}
    assert [entry["answers"] for entry in logs if "hung" in entry["event"]] == [1]
    assert heir.generates[0].committed == tuple(answer_ids(hung.generates[0], 2))
    hung.link._frames.transport.heal()
    await hung.cancelled.wait()
    await until(lambda: not rig.executor.watch.hung(1) and not rig.executor.watch.hung(2))
    assert not any((await _hung(rig)).values()), "it has been heard"


async def test_a_hung_target_that_nobody_can_stand_in_for_is_shown_and_logged_once(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 2
    asking = asyncio.create_task(
        rig.http.post("/v1/completions", json={"model": "big", "prompt": "x", "max_tokens": 4})
    )
    await until(lambda: target.sent_tokens > 0)
    assert await _hung(rig) == {target.peer_id: False}
    target.link._frames.transport.partition()
    with structlog.testing.capture_logs() as logs:
        await _three_seconds(rig)
        await _three_seconds(rig)
    assert await _hung(rig) == {target.peer_id: True}
    said = [entry["target"] for entry in logs if entry["event"] == "a target owes tokens and does not answer"]
    assert said == [target.peer_id]
    target.link._frames.transport.heal()
    target.script.go_on.set()
    assert len((await asking).json()["wanspec"]["token_ids"]) == 4


async def _three_seconds(rig: Any) -> None:
    for _ in range(12):
        rig.clock.advance(0.25)
        rig.executor.post(Tick(rig.clock.monotonic()))
        for _ in range(20):  # pongs of those that answer
            await asyncio.sleep(0)


async def _hung(rig: Any) -> dict[str, bool]:
    state = (await rig.http.get("/api/state")).json()
    return {target["id"]: target["hung"] for target in state["targets"]}


async def test_links_that_are_gone_are_sent_nothing(rig: Any) -> None:
    node = await rig.node()
    await node.close()
    rig.clock.advance(100.0)
    rig.executor.post(Tick(rig.clock.monotonic()))
    assert len(rig.executor.registry.nodes) == 0
