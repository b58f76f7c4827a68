from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from coordinator import endpoints
from coordinator.endpoints import BEATS_AT_ONCE
from coordinator.events import Tick
from coordinator.instructions import LeaseTerms
from coordinator.ledger import LedgerError
from coordinator.records import Tally
from tests.support.fake_target import drafter, node_registration, target_registration, until
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import ENROLMENT, LANDMARKS, Enrol, LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks, LeaseOffer, LeaseRenewed
from wanspec_p2p.protocol.coordinator_to_target import Drafters, ReceiptsStored
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, LeaseAnswer, ProbeResult, Timed
from wanspec_p2p.protocol.target_to_coordinator import (
    DraftersWanted,
    Finished,
    Receipt,
    Receipts,
    TargetHeartbeat,
    Tokens,
    Usage,
)
from wanspec_p2p.security import leases
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import FinishReason, PeerId, Role


async def test_a_lease_from_the_want_to_the_grant(rig: Any) -> None:
    target, node = await rig.target(), await rig.node(owner="us", site="here")
    await target.send(DraftersWanted("w", 1))
    offer = await node.expect(LeaseOffer)
    claims = leases.check(offer.lease, coordinator=rig.executor.identity.public_key, clock=rig.clock, node=node.peer_id)
    assert claims.target == target.peer_id
    assert (claims.jti, claims.owner, claims.site, claims.expires - claims.issued) == (offer.jti, "us", "here", 600)
    await node.send(LeaseAnswer(offer.jti, True))
    drafters = await target.expect(Drafters)
    assert [entry.jti for entry in drafters.drafters] == [offer.jti]
    state = (await rig.http.get("/api/state")).json()
    assert state["leases"][0]["state"] == "held"
    assert state["nodes"][0]["leases"] == 1
    await node.close()
    assert (await target.expect(LeaseRevoked)).jti == offer.jti


async def test_a_lease_is_renewed_with_a_later_end(rig: Any) -> None:
    target, node = await rig.target(), await rig.node()
    await target.send(DraftersWanted("w", 1))
    offer = await node.expect(LeaseOffer)
    await node.send(LeaseAnswer(offer.jti, True))
    await target.expect(Drafters)
    rig.clock.advance(300.0)
    await node.send(Heartbeat(0))
    await target.send(TargetHeartbeat(0, 0, 0))
    now = rig.clock.monotonic()
    registry = rig.executor.registry
    await until(lambda: all(p.seen == now for p in [*registry.nodes.values(), *registry.targets.values()]))
    rig.executor.post(Tick(now))
    renewed = await node.expect(LeaseRenewed)
    key = rig.executor.identity.public_key
    first, second = (leases.check(lease, coordinator=key, clock=rig.clock) for lease in (offer.lease, renewed.lease))
    assert (second.jti, second.expires - first.expires) == (first.jti, 300)


async def lent(rig: Any) -> tuple[Any, Any, str]:
    """A target, a node that drafts for it, and the `jti` of the lease."""
    target, node = await rig.target(), await rig.node()
    await target.send(DraftersWanted("w", 1))
    offer = await node.expect(LeaseOffer)
    await node.send(LeaseAnswer(offer.jti, True))
    await target.expect(Drafters)
    return target, node, offer.jti


async def test_receipts_are_acknowledged_when_they_are_on_disk(rig: Any) -> None:
    target, node, jti = await lent(rig)
    receipt = Receipt("r", node.peer_id, jti, "s", drafted=4, verified=3, accepted=2, won=1, rtt=0.02)
    for batch in ("b1", "b2"):  # sent again, as after a crash
        await target.send(Receipts(batch, (receipt,)))
        assert (await target.expect(ReceiptsStored)).batch == batch
    tallies = await rig.executor.ledger.tallies()
    assert tallies[node.peer_id].drafted == 4
    await until(lambda: rig.executor.registry.tallies)
    assert (await rig.http.get("/api/state")).json()["totals"] == {
        node.peer_id: {"drafted": 4, "verified": 3, "accepted": 2, "won": 1}
    }
    assert "wanspec_draft_rtt_seconds_count 1.0" in (await rig.http.get("/metrics")).text


async def test_a_receipt_waits_for_its_lease_to_be_on_disk(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def refuse(terms: LeaseTerms, **_: float) -> None:
        tried.append(terms.jti)
        raise LedgerError("the disk is full")

    monkeypatch.setattr(rig.executor.ledger, "record_lease", refuse)
    target, node, jti = await lent(rig)
    receipt = Receipt("r", node.peer_id, jti, "s", drafted=4, verified=3, accepted=2, won=1)
    await target.send(Receipts("b1", (receipt,)))
    await until(lambda: len(tried) == 2)  # when it was given, and for the receipt
    monkeypatch.undo()
    await target.send(Receipts("b2", (receipt,)))
    assert (await target.expect(ReceiptsStored)).batch == "b2"
    assert target.pending(ReceiptsStored) == []
    assert (await rig.executor.ledger.tallies())[node.peer_id].drafted == 4


async def test_a_receipt_of_a_target_that_was_never_lent_the_node_counts_for_nothing(rig: Any) -> None:
    target, node, jti = await lent(rig)
    stranger = await rig.target(pool="other")
    praise = Receipt("r1", node.peer_id, jti, "s", 1000, 1000, 1000, 1000, rtt=0.5, by_depth=((1000, 1000),))
    invented = msgspec.structs.replace(praise, id="r2", node=PeerId("f" * 32), jti="made up")
    for said_by, receipt in ((stranger, praise), (target, invented)):
        await said_by.send(Receipts("b", (receipt,)))
        await said_by.expect(ReceiptsStored)
    honest = msgspec.structs.replace(praise, id="r3", won=1)
    await target.send(Receipts("b", (honest,)))
    await until(lambda: rig.executor.registry.tallies)
    ((peer, tally),) = rig.executor.registry.tallies.items()
    said = tally.voices.together(rig.executor.clock.monotonic())
    assert (peer, tally.won, said.reached) == (node.peer_id, 1, 1000)
    assert await rig.executor.ledger.tallies() == {node.peer_id: Tally(1000, 1000, 1000, 1)}


async def test_round_trips_are_predicted_from_the_links_and_judged_by_receipts(rig: Any) -> None:
    target, node, jti = await lent(rig)
    registry = rig.executor.registry
    for peer, beat in ((target, TargetHeartbeat(0, 0, 0, rtt=9.0)), (node, Heartbeat(0, rtt=9.0))):
        await peer.send(beat)
    peers = (registry.nodes[node.peer_id], registry.targets[target.peer_id])
    await until(lambda: all(peer.jitter is not None for peer in peers))
    assert [peer.rtt for peer in peers] == [0.0, 0.0]  # as our own end measured it, not as they say
    state = (await rig.http.get("/api/state")).json()
    assert state["rtt_predictions"] == {"checked": 0, "median_relative_error": None}
    assert state["nodes"][0]["jitter"] == 0.0
    receipt = Receipt("r", node.peer_id, jti, "s", drafted=4, verified=3, accepted=2, won=1, rtt=0.02)
    await target.send(Receipts("b1", (receipt,)))
    await until(lambda: registry.accuracy.checked == 1)
    predictions = (await rig.http.get("/api/state")).json()["rtt_predictions"]
    assert predictions["checked"] == 1
    assert 0.9 < predictions["median_relative_error"] < 1.0  # links without delay foretold next to nothing
    assert "wanspec_rtt_predictions_total 1.0" in (await rig.http.get("/metrics")).text


async def test_what_receipts_say_of_acceptance_is_shown_by_pair_of_models(rig: Any) -> None:
    target, node, jti = await lent(rig)
    await node.close()  # a receipt may come when its lease is over
    await target.expect(LeaseRevoked)
    for number, by_depth in enumerate([((600, 300), (300, 90)), ((300, 60), (60, 0))]):
        receipt = Receipt(f"r{number}", node.peer_id, jti, "s", 1000, 900, 400, 1, by_depth=by_depth)
        rig.clock.advance(2 * 86400.0)
        for batch in ("b1", "b2"):  # sent again, as after a crash
            await target.send(Receipts(f"{batch} {number}", (receipt,)))
            await target.expect(ReceiptsStored)
    assert (await rig.http.get("/api/state")).json()["acceptance"] == [
        {
            "target": {"name": "big", "digest": "d" * 64},
            "drafter": {"name": "small", "digest": "e" * 64},
            "reached": 1260,
            "right": 450,
            "alpha": 0.3571,
            "recent": {"reached": 360, "right": 60, "alpha": 0.1667},
            "before": {"reached": 900, "right": 390, "alpha": 0.4333},
            "by_depth": [
                {"depth": 1, "reached": 900, "right": 360, "alpha": 0.4},
                {"depth": 2, "reached": 360, "right": 90, "alpha": 0.25},
            ],
            "misfit": "recent acceptance 0.17, before 0.43: this drafter may no longer fit its target; "
            "see docs/how-to/train-a-drafter.md",
        }
    ]
    shown = (await rig.http.get("/metrics")).text
    assert 'wanspec_acceptance_reached_total{drafter_model="small",target_model="big"} 1260.0' in shown
    assert 'wanspec_acceptance_right_total{drafter_model="small",target_model="big"} 450.0' in shown


@pytest.mark.parametrize(
    ("claim", "fault"),
    [
        ({"by_depth": ((1, 2),)}, "by_depth has more right positions than were reached"),
        ({"by_depth": ((4, 1),)}, "by_depth has more positions than verified tokens"),
        ({"by_depth": ((3, 3),)}, "by_depth has more right positions than accepted tokens"),
        ({"verified": 5}, "verified is more than drafted"),
        ({"won": 5}, "won is more than drafted"),
    ],
    ids=["right", "reached", "accepted", "verified", "won"],
)
async def test_counts_that_cannot_be_end_the_targets_link(rig: Any, claim: dict[str, Any], fault: str) -> None:
    target, node, jti = await lent(rig)
    honest = Receipt("r", node.peer_id, jti, "s", drafted=4, verified=3, accepted=2, won=1)
    lie = msgspec.structs.replace(honest, **claim)
    # Past our own codec, which would not encode it.
    await target.link._frames.transport.send(msgspec.json.encode(Receipts("b", (lie,))).decode())
    refusal = await target.refusal()
    assert refusal.code == CloseCode.PROTOCOL_ERROR
    assert refusal.reason == f"Receipts: {fault}"
    assert await rig.executor.ledger.acceptance(now=rig.clock.wall()) == []
    assert await rig.executor.ledger.tallies() == {}


async def test_receipts_of_very_many_positions_are_stored_in_parts_and_acknowledged_once(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, node, jti = await lent(rig)
    ledger, calls = rig.executor.ledger, list[int]()
    store = ledger.store_receipts

    async def count(peer: PeerId, receipts: Sequence[Receipt], *, now: float) -> Any:
        calls.append(sum(len(receipt.by_depth) for receipt in receipts))
        return await store(peer, receipts, now=now)

    monkeypatch.setattr(ledger, "store_receipts", count)
    deep = Receipt("r", node.peer_id, jti, "s", drafted=256, verified=256, accepted=0, won=0, by_depth=((1, 0),) * 256)
    receipts = tuple(msgspec.structs.replace(deep, id=f"r{number}") for number in range(40))
    for batch in ("b1", "b2"):
        await target.send(Receipts(batch, receipts))
        assert (await target.expect(ReceiptsStored)).batch == batch
    assert calls == [16 * 256, 16 * 256, 8 * 256] * 2
    assert target.pending(ReceiptsStored) == []
    await until(lambda: rig.executor.registry.tallies[node.peer_id].drafted == 40 * 256)
    assert (await ledger.acceptance(now=rig.clock.wall()))[0].total.reached == 40 * 256


async def test_positions_deeper_than_a_round_can_settle_end_the_targets_link(rig: Any) -> None:
    target, node, jti = await lent(rig)
    for depths in (limits.MAX_TOKENS_PER_ROUND, limits.MAX_TOKENS_PER_ROUND + 1):
        receipt = Receipt(f"{depths}", node.peer_id, jti, "s", depths, depths, 0, 0, by_depth=((1, 0),) * depths)
        await target.send(Receipts("b", (receipt,)))  # our own codec does not look at single fields
    refusal = await target.refusal()
    assert refusal.code == CloseCode.INVALID_DATA
    assert refusal.reason == "Receipts: Expected `array` of length <= 256 at `$.receipts[0].by_depth`"
    await until(lambda: rig.executor.registry.tallies)
    assert (await rig.executor.ledger.tallies())[node.peer_id].drafted == limits.MAX_TOKENS_PER_ROUND


@pytest.mark.parametrize("field", ["drafted", "verified", "accepted", "won"])
async def test_a_count_no_session_can_reach_ends_the_targets_link(rig: Any, field: str) -> None:
    target, node, jti = await lent(rig)
    most = limits.MAX_DRAFTED if field in ("drafted", "verified") else limits.MAX_PROMPT_TOKENS
    honest = Receipt("r", node.peer_id, jti, "s", drafted=most, verified=most, accepted=1, won=1)
    for count in (most, most + 1):
        claim = {field: count} | ({"verified": count} if field == "accepted" else {})
        receipt = msgspec.structs.replace(honest, id=f"r{count}", **claim)
        # Past our own codec, which would not encode it.
        await target.link._frames.transport.send(msgspec.json.encode(Receipts(f"b{count}", (receipt,))).decode())
    refusal = await target.refusal()
    assert refusal.code == CloseCode.INVALID_DATA
    assert refusal.reason == f"Receipts: Expected `int` <= {most} at `$.receipts[0].{field}`"
    await until(lambda: rig.executor.registry.tallies)
    (tally,) = (await rig.executor.ledger.tallies()).values()
    assert getattr(tally, field) == most, "the first of them was as good as any"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": limits.MAX_PROMPT_TOKENS + 1},
        {"rounds": 2**53},
        {"drafted": limits.MAX_DRAFTED + 1},
        {"late": 2**53},
        {"accepted_by_length": {1: (2**53, 0)}},
        {"won_by_peer": {"n" * 32: 2**53}},
    ],
    ids=lambda usage: next(iter(usage)),
)
async def test_usage_no_answer_can_have_ends_the_targets_link(rig: Any, usage: dict[str, Any]) -> None:
    target = await rig.target()
    honest = Usage(prompt_tokens=1, completion_tokens=1, rounds=1, drafted=0, accepted=0, late=0)
    await target.send(Finished("r", FinishReason.STOP, msgspec.structs.replace(honest, **usage)))
    refusal = await target.refusal()
    assert refusal.code == CloseCode.INVALID_DATA
    assert f"usage.{next(iter(usage))}" in refusal.reason


@pytest.mark.parametrize(
    ("secret", "ttl", "code", "words"),
    [
        ("", 1.0, CloseCode.NOT_ENROLLED, "not enrolled"),
        ("wrong", 1.0, CloseCode.JOIN_REFUSED, "not one of this coordinator's"),
        (None, -1.0, CloseCode.JOIN_REFUSED, "expired"),
    ],
    ids=["none", "wrong", "expired"],
)
async def test_who_may_not_join_is_told_why(
    rig: Any, secret: str | None, ttl: float, code: CloseCode, words: str
) -> None:
    made = await rig.secret(Role.NODE, ttl=ttl)
    peer = await rig.peer(node_registration(made if secret is None else secret), registered=False)
    refusal = await peer.refusal()
    assert refusal.code == code
    assert words in refusal.reason


async def test_a_used_token_is_refused_and_an_enrolled_key_needs_none(rig: Any) -> None:
    identity = Identity.generate()
    secret = await rig.secret(Role.NODE)
    first = await rig.peer(node_registration(secret), identity=identity)
    await first.close()
    again = await rig.peer(node_registration(), identity=identity)
    assert again.ended is None
    thief = await rig.peer(node_registration(secret), registered=False)
    assert (await thief.refusal()).code == CloseCode.JOIN_REFUSED


@pytest.mark.parametrize("registration", [node_registration, target_registration], ids=["node", "target"])
async def test_who_only_enrols_is_told_that_it_may_come_and_is_nobody_until_it_does(
    rig: Any, registration: Any
) -> None:
    role = Role.NODE if registration is node_registration else Role.TARGET
    identity, secret = Identity.generate(), await rig.secret(role, pool="lab")
    registry = rig.executor.registry
    with capture_logs() as logs:
        for shown in (secret, ""):  # the second time it is known
            peer = await rig.peer(
                registration(),
                identity=identity,
                features=(ENROLMENT,),
                first=Enrol("lab-a", "ada", "north", shown),
                registered=False,
            )
            assert (await peer.expect(Registered)).pool == "lab"
            with pytest.raises(LinkClosed):
                await peer.expect(Registered)
            assert not registry.nodes and not registry.targets
        await until(lambda: not rig.serving)
    assert {line["log_level"] for line in logs} == {"info"}
    assert [line["event"] for line in logs] == ["enrolled", "peer left"] * 2
    assert logs[0] | {"peer": identity.peer_id, "role": role.value, "name": "lab-a", "pool": "lab"} == logs[0]
    assert logs[1]["reason"] == "it was told that it is enrolled"
    state = (await rig.http.get("/api/state")).json()
    assert (state["nodes"], state["targets"]) == ([], [])
    await rig.peer(registration(), identity=identity)
    assert set(registry.nodes) | set(registry.targets) == {identity.peer_id}
    thief = await rig.peer(
        registration(), features=(ENROLMENT,), first=Enrol("thief", join_secret=secret), registered=False
    )
    refusal = await thief.refusal()
    assert refusal.code == CloseCode.JOIN_REFUSED and "used already" in refusal.reason


@pytest.mark.parametrize("registration", [node_registration, target_registration], ids=["node", "target"])
async def test_to_ask_whether_it_is_enrolled_does_not_throw_out_the_peer_that_runs(rig: Any, registration: Any) -> None:
    identity, registry = Identity.generate(), rig.executor.registry
    running = await (rig.node if registration is node_registration else rig.target)(identity=identity)
    links = [(record.peer, record.link) for record in (*registry.nodes.values(), *registry.targets.values())]
    await rig.peer(registration(), identity=identity, features=(ENROLMENT,), first=Enrol("again"))
    await until(lambda: len(rig.serving) == 1)
    assert running.ended is None and [peer for peer, _ in links] == [identity.peer_id]
    now = [(record.peer, record.link) for record in (*registry.nodes.values(), *registry.targets.values())]
    assert now == links


async def test_who_asks_in_the_wrong_role_or_was_revoked_is_told_so(rig: Any) -> None:
    secret, identity = await rig.secret(Role.TARGET), Identity.generate()
    wrong = await rig.peer(
        node_registration(), features=(ENROLMENT,), first=Enrol("n", join_secret=secret), registered=False
    )
    assert (await wrong.refusal()).reason == "the join token is for a target, not for a node"
    revoked = await rig.peer(
        node_registration(), identity=identity, features=(ENROLMENT,), first=Enrol("n"), registered=False
    )
    assert (await revoked.refusal()).code == CloseCode.NOT_ENROLLED


async def test_a_tokenizer_mismatch_is_refused_with_both_fingerprints_and_costs_no_token(rig: Any) -> None:
    await rig.target()
    identity = Identity.generate()
    wrong = node_registration(await rig.secret(Role.NODE), models=(drafter(tokenizer="b" * 64),))
    peer = await rig.peer(wrong, identity=identity, registered=False)
    refusal = await peer.refusal()
    assert refusal.code == CloseCode.TOKENIZER_MISMATCH
    assert "b" * 64 in refusal.reason
    assert "a" * 64 in refusal.reason
    fixed = await rig.peer(node_registration(), identity=identity)
    assert fixed.ended is None


async def test_the_same_identity_twice_replaces_the_first(rig: Any) -> None:
    identity = Identity.generate()
    first = await rig.node(identity=identity)
    second = await rig.peer(node_registration(), identity=identity)
    assert (await first.refusal()).code == CloseCode.REPLACED
    assert second.ended is None
    assert len(rig.executor.registry.nodes) == 1


async def test_a_node_that_can_is_asked_to_time_targets_and_believed(rig: Any) -> None:
    target = await rig.target()
    node = await rig.node(features=(LANDMARKS,))
    await node.send(Heartbeat(0))
    (landmark,) = (await node.expect(Landmarks)).landmarks
    assert landmark == Landmark(target.peer_id, target_registration().addresses[0])
    await node.send(Timed(target.peer_id, 0.03))
    measured = partial(rig.executor.registry._coordinates.measured, node.peer_id, target.peer_id)
    await until(lambda: measured() == 0.03)


async def test_a_node_of_the_release_before_is_asked_nothing(rig: Any) -> None:
    await rig.target()
    node = await rig.node()
    await node.send(Heartbeat(0))
    await node.send(Heartbeat(1))
    await until(lambda: rig.executor.registry.nodes[node.peer_id].sessions == 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await node.expect(Landmarks)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (node_registration(), "registers once"),
        (Enrol("again"), "registers once"),
        (ProbeResult("p", (), 0.0), "no probe"),
        (Timed(PeerId("t" * 32), 0.01), "no landmarks"),
    ],
    ids=["registers twice", "enrols once more", "unasked probe", "landmarks without the feature"],
)
async def test_a_node_that_breaks_the_rules_is_hung_up_on(rig: Any, message: Any, words: str) -> None:
    node = await rig.node()
    await node.send(message)
    refusal = await node.refusal()
    assert refusal.code == CloseCode.PROTOCOL_ERROR
    assert words in refusal.reason


async def test_heartbeats_beyond_what_was_asked_for_end_the_link(rig: Any) -> None:
    for peer, beat in ((await rig.node(), Heartbeat(0)), (await rig.target(), TargetHeartbeat(0, 0, 0))):
        for _ in range(BEATS_AT_ONCE + 1):
            await peer.send(beat)
        refusal = await peer.refusal()
        assert (refusal.code, refusal.reason) == (CloseCode.POLICY_VIOLATION, "more heartbeats than were asked for")


async def test_heartbeats_twice_as_often_as_was_asked_for_are_taken(rig: Any) -> None:
    node = await rig.node()
    for sessions in range(3 * BEATS_AT_ONCE):
        rig.clock.advance(rig.executor.settings.heartbeat / 2)
        await node.send(Heartbeat(sessions))
        await until(lambda: rig.executor.registry.nodes[node.peer_id].sessions == sessions)  # noqa: B023


async def test_the_first_message_must_register(rig: Any) -> None:
    for first in (Heartbeat(0), Enrol("without the feature")):
        peer = await rig.peer(node_registration(), registered=False, first=first)
        assert "must register" in (await peer.refusal()).reason


async def test_tokens_out_of_order_end_the_targets_link_and_the_answer(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 0
    body = {"model": "big", "prompt": "x"}
    asking = asyncio.create_task(rig.http.post("/v1/completions", json=body))
    await target.asked.wait()
    await target.send(Tokens(target.generates[0].request, 3, (1,), "x", (None,)))
    assert (await target.refusal()).code == CloseCode.PROTOCOL_ERROR
    assert (await asking).json()["error"]["code"] == "target_lost"


async def test_a_node_that_drains_gets_nothing_new(rig: Any) -> None:
    target, node = await rig.target(), await rig.node()
    await node.send(Drain("going home"))
    await until(lambda: [n.state.value for n in rig.executor.registry.nodes.values()] == ["draining"])
    await target.send(DraftersWanted("w", 1))
    assert "draining" in (await target.expect(Drafters)).reason


async def test_shutting_down_says_goodbye_and_when_to_come_back(rig: Any) -> None:
    target, node = await rig.target(), await rig.node()
    target.script.pause_after = 0
    asking = asyncio.create_task(rig.http.post("/v1/completions", json={"model": "big", "prompt": "x"}))
    await target.asked.wait()
    await rig.executor.shut_down("maintenance", retry_after=3.0)
    assert (await asking).json()["error"]["code"] == "no_target"
    for peer in (target, node):
        with pytest.raises((LinkClosed, PeerRefused), match="maintenance"):
            await peer.expect(Registered)
        assert peer.link.retry_after == 3.0
    refused = await rig.http.post("/v1/completions", json={"model": "big", "prompt": "x"})
    assert refused.status_code == 503


async def test_an_unwritable_ledger_closes_with_try_again_later(rig: Any) -> None:
    await rig.executor.ledger.close()
    peer = await rig.peer(target_registration("s"), registered=False)
    assert (await peer.refusal()).code == CloseCode.TRY_AGAIN_LATER


async def test_strangers_cannot_crowd_out_peers(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_STRANGERS", 2)
    silent = [rig.transport(Role.NODE) for _ in range(2)]
    await asyncio.sleep(0)
    refused = rig.transport(Role.NODE)
    with pytest.raises(PeerRefused, match="too many connections") as refusal:
        await refused.receive()
    assert refusal.value.code == CloseCode.TRY_AGAIN_LATER
    for transport in silent:
        await transport.close()
    await until(lambda: not rig.serving)
    for _ in range(3):  # who has registered is no stranger
        await rig.node()
    assert len(rig.executor.registry.nodes) == 3
