from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest

from coordinator import matching
from coordinator import registry as registry_module
from coordinator.acceptance import VOICE_SECONDS, Acceptance, ModelPair, Positions
from coordinator.coordinates import Accuracy
from coordinator.events import (
    Disenrolled,
    DraftersAsked,
    LandmarkTimed,
    LeaseAnswered,
    LeaseInForce,
    LeasesRead,
    NodeBeat,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    ReceiptsKept,
    TargetBeat,
    TargetDraining,
    TargetLost,
    TargetRegistered,
    Tick,
)
from coordinator.instructions import Close, Instruction, OfferLease, RecordLease, RenewLease, Send, TargetGone
from coordinator.lease_book import HONOURED_SECONDS, MAX_ENDED, UNANSWERED_SECONDS
from coordinator.matching import Candidate
from coordinator.records import NodeRecord, PeerState, Tally, TargetRecord
from coordinator.registry import Registry
from tests.support.fake_target import SERVED, drafter, node_registration, target_registration
from wanspec_p2p.errors import CloseCode, LocalProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_target import Drafters, GrantedDrafter
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat, LeaseAnswer, Timed
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted, Receipt, TargetHeartbeat
from wanspec_p2p.types import PeerId, Privacy

T = PeerId("t" * 32)
TARGET, NODE = 1, 2  # links


def peer(name: str) -> PeerId:
    return PeerId(name * 32)


def make(**options: Any) -> Registry:
    counter = itertools.count(1)
    return Registry(rng=random.Random(0), new_id=lambda: f"jti-{next(counter)}", **options)


def add_target(registry: Registry, link: int = TARGET, at: float = 0.0, **changes: Any) -> list[Instruction]:
    return registry.handle(TargetRegistered(at, link, T, "default", target_registration(**changes)))


def add_node(
    registry: Registry, link: int = NODE, name: str = "a", at: float = 0.0, pool: str = "default", **changes: Any
) -> list[Instruction]:
    return registry.handle(NodeRegistered(at, link, peer(name), pool, node_registration(**changes)))


def ask(registry: Registry, at: float = 0.0, count: int = 1, want: str = "w", **options: Any) -> list[Instruction]:
    return registry.handle(DraftersAsked(at, TARGET, DraftersWanted(want, count, **options)))


def answer(registry: Registry, jti: str, accepted: bool = True, link: int = NODE, at: float = 0.0) -> list[Instruction]:
    return registry.handle(LeaseAnswered(at, link, LeaseAnswer(jti, accepted)))


def granted(name: str, jti: str) -> GrantedDrafter:
    return GrantedDrafter(peer(name), jti, "small", 50.0)


@pytest.fixture
def registry() -> Registry:
    """A target on link 1 and node a on link 2."""
    registry = make()
    add_target(registry)
    add_node(registry)
    return registry


# Coming and going


def test_who_registers_is_told_so() -> None:
    registry = make(heartbeat=3.0)
    assert add_target(registry) == [Send(TARGET, Registered("default", 3.0))]
    assert add_node(registry) == [Send(NODE, Registered("default", 3.0))]
    assert list(registry.nodes) == [peer("a")]
    assert list(registry.targets) == [T]


def test_a_node_no_target_of_its_pool_can_use_is_refused_with_both_fingerprints() -> None:
    registry = make()
    add_target(registry)
    (close,) = add_node(registry, models=(drafter(tokenizer="b" * 64),))
    assert isinstance(close, Close)
    assert close.code is CloseCode.TOKENIZER_MISMATCH
    assert "b" * 64 in close.reason
    assert SERVED.tokenizer in close.reason
    assert registry.nodes == {}


def test_before_its_target_comes_a_node_is_accepted_and_afterwards_stays_unmatched() -> None:
    registry = make()
    other = (drafter(tokenizer="b" * 64),)
    add_node(registry, models=other)
    (node,) = registry.nodes.values()
    assert registry.unmatched(node) == "no target is registered in pool default"
    add_target(registry)
    assert "tokenizer mismatch" in (registry.unmatched(node) or "")
    (send,) = ask(registry)
    assert isinstance(send, Send)
    assert isinstance(send.message, Drafters)
    assert send.message.drafters == ()
    assert "tokenizer mismatch" in send.message.reason


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/wanspec/draft",
        "wss://target.example:1/wanspec/draft",  # without a certificate
        "ws://127.0.0.1:1/api/shutdown?now=1",
        "nonsense",
    ],
)
def test_a_target_nobody_could_dial_is_refused(address: str) -> None:
    registry = make()
    (close,) = add_target(registry, addresses=(address,))
    assert isinstance(close, Close)
    assert close.code is CloseCode.POLICY_VIOLATION
    assert registry.targets == {}
    assert len(add_target(registry, addresses=("wss://target.example:1/wanspec/draft",), certificate="c" * 64)) == 1


def test_a_target_whose_host_cannot_be_looked_up_is_refused() -> None:
    (close,) = add_target(make(), addresses=("wss://a..b/wanspec/draft",), certificate="0" * 64)
    assert isinstance(close, Close)
    assert close.code is CloseCode.POLICY_VIOLATION


def test_targets_of_other_pools_do_not_count_for_the_mismatch() -> None:
    registry = make()
    add_target(registry)
    add_node(registry, pool="other", models=(drafter(tokenizer="b" * 64),))
    assert len(registry.nodes) == 1


def test_the_same_identity_on_a_new_link_replaces_the_old_one(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    assert add_node(registry, link=3) == [
        Close(NODE, CloseCode.REPLACED, "the same identity has connected again"),
        Send(3, Registered("default", 2.0)),
        Send(3, LeaseRevoked("jti-1", "the peer has connected again")),
        Send(TARGET, LeaseRevoked("jti-1", "the peer has connected again")),
    ]
    assert registry.handle(NodeLost(0.0, NODE, "closed")) == []  # late news of the old link
    assert registry.nodes[peer("a")].link == 3
    assert registry.leases == {}


def test_a_replaced_target_may_go_on_with_its_answers_once_it_is_registered(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    kinds = [type(instruction) for instruction in add_target(registry, link=9)]
    assert kinds == [Close, Send, TargetGone, Send, Send]
    assert registry.targets[T].link == 9


def test_a_link_registers_once(registry: Registry) -> None:
    (close, *_) = add_node(registry, name="b")
    assert close == Close(NODE, CloseCode.PROTOCOL_ERROR, "a link registers once")
    assert registry.nodes == {}


def test_a_peer_falls_silent_comes_back_and_is_let_go(registry: Registry) -> None:
    registry.handle(TargetBeat(6.0, TARGET, TargetHeartbeat(0, 0, 0)))
    assert registry.handle(Tick(6.0)) == []
    assert registry.nodes[peer("a")].state is PeerState.SILENT
    (send,) = ask(registry, at=6.0)
    assert isinstance(send, Send)
    assert "silent" in getattr(send.message, "reason", "")
    registry.handle(NodeBeat(7.0, NODE, Heartbeat(sessions=1)))
    assert registry.nodes[peer("a")].state is PeerState.ACTIVE
    registry.handle(TargetBeat(16.0, TARGET, TargetHeartbeat(0, 0, 0)))
    assert registry.handle(Tick(17.0)) == [Close(NODE, CloseCode.IDLE, "no heartbeat for 10 s")]
    assert registry.nodes == {}


def test_a_heartbeat_updates_what_is_known(registry: Registry) -> None:
    registry.handle(NodeBeat(1.0, NODE, Heartbeat(sessions=3, rtt=0.02)))
    registry.handle(TargetBeat(1.0, TARGET, TargetHeartbeat(sessions=2, queued=1, drafters=4, rtt=0.01)))
    node, target = registry.nodes[peer("a")], registry.targets[T]
    assert (node.sessions, node.rtt) == (3, 0.02)
    assert (target.sessions, target.queued, target.drafters, target.rtt) == (2, 1, 4, 0.01)


# Leases


def test_a_want_becomes_an_offer_an_answer_and_a_grant(registry: Registry) -> None:
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    assert (offer.link, offer.seconds) == (NODE, 600.0)
    terms = offer.terms
    assert (terms.jti, terms.node, terms.target, terms.model) == ("jti-1", peer("a"), T, "small")
    assert (terms.target_model, terms.target_digest) == (SERVED.name, SERVED.digest)
    assert terms.addresses == ("ws://127.0.0.1:9/wanspec/draft",)
    grant = Send(TARGET, Drafters("w", (granted("a", "jti-1"),)))
    assert answer(registry, "jti-1") == [RecordLease(terms, 600.0), grant]
    assert answer(registry, "jti-1") == []
    assert registry.leases["jti-1"].held


def test_a_node_that_declines_is_replaced_by_the_next(registry: Registry) -> None:
    add_node(registry, link=3, name="b", owner="other")
    (first,) = ask(registry)
    assert isinstance(first, OfferLease)
    told, second = answer(registry, "jti-1", accepted=False, link=first.link)
    assert told == Send(TARGET, LeaseRevoked("jti-1", "the node declined it")), "it is signed, and could be shown"
    assert isinstance(second, OfferLease)
    assert {first.link, second.link} == {2, 3}
    _, send = answer(registry, "jti-2", accepted=False, link=second.link)
    assert isinstance(send, Send)
    assert send.message == Drafters("w", (), "every node that was asked declined or did not answer in time")
    assert registry.leases == {}


def test_who_does_not_answer_in_time_is_left_out_and_told(registry: Registry) -> None:
    add_node(registry, link=3, name="b")
    offers = ask(registry, count=2)
    in_time, late = offers
    assert isinstance(in_time, OfferLease)
    assert isinstance(late, OfferLease)
    answer(registry, in_time.terms.jti, link=in_time.link)
    assert registry.handle(Tick(1.9)) == []
    *revoked, drafters = registry.handle(Tick(2.0))
    message = LeaseRevoked(late.terms.jti, "no answer in time")
    assert revoked == [Send(late.link, message), Send(TARGET, message)]
    assert isinstance(drafters, Send)
    assert isinstance(drafters.message, Drafters)
    assert [entry.jti for entry in drafters.message.drafters] == [in_time.terms.jti]
    assert answer(registry, late.terms.jti, link=late.link) == []  # too late
    assert list(registry.leases) == [in_time.terms.jti]


def test_a_node_that_leaves_offers_unanswered_makes_nobody_wait_again_for_a_while(registry: Registry) -> None:
    """However fast it says it is."""
    add_node(registry, link=3, name="b", models=(drafter(speed=1e9),))
    at = 0.0
    for times in range(3):
        (offer,) = ask(registry, at, want=f"w{times}")
        assert isinstance(offer, OfferLease)
        assert offer.link == 3
        at += 2.0
        registry.handle(Tick(at))
        (other,) = ask(registry, at, want=f"x{times}")
        assert isinstance(other, OfferLease)
        assert other.link == NODE
        answer(registry, other.terms.jti, accepted=False, at=at)
        at += 2**times * UNANSWERED_SECONDS
        for link in (NODE, 3):
            registry.handle(NodeBeat(at, link, Heartbeat(0)))
    (offer,) = ask(registry, at, want="y")
    assert isinstance(offer, OfferLease)
    assert offer.link == 3
    answer(registry, offer.terms.jti, accepted=False, link=3, at=at)
    (again,) = ask(registry, at, want="z")
    assert isinstance(again, OfferLease)
    assert again.link == 3, "a no is an answer"


def test_a_no_that_comes_late_is_the_fault_of_who_says_it_and_of_nobody_else(registry: Registry) -> None:
    """The next best is asked when the time is nearly over, and cannot help that it does not answer within it."""
    add_node(registry, link=3, name="b", models=(drafter(speed=1e9),))
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    assert offer.link == 3
    *_, replacement = answer(registry, offer.terms.jti, accepted=False, link=3, at=1.95)
    assert isinstance(replacement, OfferLease)
    assert replacement.link == NODE
    registry.handle(Tick(2.0))
    (next_time,) = ask(registry, at=2.0, want="again")
    assert isinstance(next_time, OfferLease)
    assert next_time.link == NODE, "neither the one that said no late, nor nobody"


def test_one_hiccup_counts_once_however_many_offers_were_out() -> None:
    registry = make()
    add_node(registry, slots=8)
    targets = [PeerId(letter * 32) for letter in "uvwxyz"]
    for link, target in enumerate(targets, 10):
        registry.handle(TargetRegistered(0.0, link, target, "default", target_registration()))
        (offer,) = registry.handle(DraftersAsked(0.0, link, DraftersWanted("w", 1)))
        assert isinstance(offer, OfferLease)
    registry.handle(Tick(2.0))
    registry.handle(NodeBeat(2.1, NODE, Heartbeat(0)))
    (nobody,) = registry.handle(DraftersAsked(2.1, 10, DraftersWanted("x", 1)))
    assert isinstance(nobody, Send)
    assert "left an offer unanswered lately" in getattr(nobody.message, "reason", "")
    at = 2.0 + UNANSWERED_SECONDS
    registry.handle(NodeBeat(at, NODE, Heartbeat(0)))
    registry.handle(TargetBeat(at, 10, TargetHeartbeat(0, 0, 0)))
    (offer,) = registry.handle(DraftersAsked(at, 10, DraftersWanted("y", 1)))
    assert isinstance(offer, OfferLease)


def test_a_node_has_no_more_leases_than_slots_and_one_a_target() -> None:
    registry = make()
    add_target(registry)
    add_node(registry, slots=1)
    ask(registry)
    (again,) = ask(registry, want="w2")
    assert isinstance(again, Send)  # nobody: it is on offer to this target already
    other = PeerId("u" * 32)
    registry.handle(TargetRegistered(0.0, 5, other, "default", target_registration()))
    (full,) = registry.handle(DraftersAsked(0.0, 5, DraftersWanted("x", 1)))
    assert isinstance(full, Send)
    assert "slots" in getattr(full.message, "reason", "")


def test_private_prompts_and_untrusted_pools_get_nobody(registry: Registry) -> None:
    for privacy in (Privacy.PRIVATE, Privacy.TRUSTED):
        (send,) = ask(registry, privacy=privacy, want=privacy.value)
        assert isinstance(send, Send)
        assert getattr(send.message, "drafters", None) == ()
    trusting = make(trusted_pools=frozenset({"default"}))
    add_target(trusting)
    add_node(trusting)
    assert isinstance(ask(trusting, privacy=Privacy.TRUSTED)[0], OfferLease)


def test_a_lease_is_renewed_at_half_its_life(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    for at in range(0, 300, 5):
        registry.handle(NodeBeat(at, NODE, Heartbeat(0)))
        registry.handle(TargetBeat(at, TARGET, TargetHeartbeat(0, 0, 0)))
        assert registry.handle(Tick(at)) == []
    renewed, recorded = registry.handle(Tick(300.0))
    assert isinstance(renewed, RenewLease)
    assert (renewed.link, renewed.terms.jti, renewed.seconds) == (NODE, "jti-1", 600.0)
    assert recorded == RecordLease(renewed.terms, 600.0)
    assert registry.handle(Tick(300.0)) == []


def test_the_lease_of_a_node_that_drains_runs_out(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    registry.handle(NodeDraining(1.0, NODE, "bye"))
    for at in range(5, 600, 5):
        registry.handle(NodeBeat(at, NODE, Heartbeat(0)))
        registry.handle(TargetBeat(at, TARGET, TargetHeartbeat(0, 0, 0)))
        assert registry.handle(Tick(at)) == []
    assert registry.handle(Tick(600.0)) == [
        Send(NODE, LeaseRevoked("jti-1", "expired")),
        Send(TARGET, LeaseRevoked("jti-1", "expired")),
    ]


def test_offers_to_a_node_that_drains_go_to_another(registry: Registry) -> None:
    add_node(registry, link=3, name="b")
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    told, next_offer = registry.handle(NodeDraining(0.0, offer.link, "bye"))
    assert told == Send(TARGET, LeaseRevoked(offer.terms.jti, "the node takes nothing new"))
    assert isinstance(next_offer, OfferLease)
    assert next_offer.link != offer.link


def test_losing_a_node_revokes_its_leases_at_the_target(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    lost = registry.handle(NodeLost(0.0, NODE, "closed"))
    assert lost == [Send(TARGET, LeaseRevoked("jti-1", "the node is gone"))]
    assert registry.leases == {}


def test_losing_a_node_that_was_being_asked_asks_the_next(registry: Registry) -> None:
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    told, send = registry.handle(NodeLost(0.0, NODE, "closed"))
    assert told == Send(TARGET, LeaseRevoked(offer.terms.jti, "the node takes nothing new"))
    assert isinstance(send, Send)
    assert isinstance(send.message, Drafters)


def test_who_was_revoked_has_to_leave_and_takes_its_leases_along(registry: Registry) -> None:
    add_node(registry, 3, "b")
    ask(registry)
    answer(registry, "jti-1")
    assert registry.handle(Disenrolled(1.0, frozenset({peer("c")}))) == []
    close, revoked = registry.handle(Disenrolled(1.0, frozenset({peer("a")})))
    assert isinstance(close, Close)
    assert (close.link, close.code) == (NODE, CloseCode.NOT_ENROLLED)
    assert "revoked" in close.reason
    assert revoked == Send(TARGET, LeaseRevoked("jti-1", "the node is gone"))
    assert list(registry.nodes) == [peer("b")]
    assert registry.handle(NodeLost(1.0, NODE, "closed")) == [], "what comes of a link that was closed is late"
    close, gone = registry.handle(Disenrolled(2.0, frozenset({T})))
    assert isinstance(close, Close)
    assert (close.link, gone) == (TARGET, TargetGone(TARGET, "the target is gone"))
    assert registry.targets == {}


def test_losing_a_target_revokes_its_leases_at_the_nodes(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    assert registry.handle(TargetLost(0.0, TARGET, "closed")) == [
        TargetGone(TARGET, "the target is gone"),
        Send(NODE, LeaseRevoked("jti-1", "the target is gone")),
    ]
    assert answer(registry, "jti-1", accepted=False) == []


def test_a_node_lets_go_of_a_lease_by_saying_so_or_by_not_naming_it(registry: Registry) -> None:
    revoked = [Send(TARGET, LeaseRevoked("jti-1", "the node let go of it"))]
    ask(registry)
    answer(registry, "jti-1")
    assert answer(registry, "jti-1", accepted=False) == revoked
    ask(registry, want="w2")
    answer(registry, "jti-2")
    assert registry.handle(NodeBeat(0.0, NODE, Heartbeat(0))) == []  # it never named it: it may not do so at all
    assert registry.handle(NodeBeat(0.0, NODE, Heartbeat(0, leases=("jti-2",)))) == []
    assert registry.handle(NodeBeat(0.0, NODE, Heartbeat(0))) == [
        Send(TARGET, LeaseRevoked("jti-2", "the node let go of it"))
    ]


ENDED = "the lease has ended"


def test_a_node_that_was_cut_off_is_told_which_of_the_leases_it_names_have_ended(registry: Registry) -> None:
    """The target alone was told when the link broke, and may go on with the node's drafts as if it had not been."""
    ask(registry)
    answer(registry, "jti-1")
    registry.handle(NodeLost(0.0, NODE, "closed"))
    add_node(registry, link=3)
    ask(registry, want="w2")
    answer(registry, "jti-2", link=3)
    named = Heartbeat(0, leases=("jti-2", "jti-1", "jti-1"))
    for at in (0.0, 1.0):  # as often as it names it
        assert registry.handle(NodeBeat(at, 3, named)) == [Send(3, LeaseRevoked("jti-1", ENDED))]
    assert registry.leases["jti-2"].listed


def test_a_lease_on_offer_that_a_heartbeat_names_already_has_not_ended(registry: Registry) -> None:
    ask(registry)
    assert registry.handle(NodeBeat(0.0, NODE, Heartbeat(0, leases=("jti-1",)))) == []
    registry.handle(Tick(2.0))  # the target was answered without it
    assert registry.handle(NodeBeat(2.0, NODE, Heartbeat(0, leases=("jti-1",)))) == [
        Send(NODE, LeaseRevoked("jti-1", ENDED))
    ]


def test_another_nodes_lease_is_none_of_a_nodes_own(registry: Registry) -> None:
    ask(registry)
    answer(registry, "jti-1")
    add_node(registry, link=3, name="b")
    assert registry.handle(NodeBeat(0.0, 3, Heartbeat(0, leases=("jti-1",)))) == [Send(3, LeaseRevoked("jti-1", ENDED))]
    assert registry.leases["jti-1"].held


def test_a_node_is_told_of_some_leases_at_a_time_however_many_it_names(registry: Registry) -> None:
    named = tuple(f"unknown {number}" for number in range(limits.MAX_NODE_SLOTS))
    told = registry.handle(NodeBeat(0.0, NODE, Heartbeat(0, leases=named)))
    assert told == [Send(NODE, LeaseRevoked(jti, ENDED)) for jti in named[:64]]


def test_an_answer_for_another_nodes_lease_is_ignored(registry: Registry) -> None:
    add_node(registry, link=3, name="b")
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    assert answer(registry, "jti-1", link=5 - offer.link) == []
    assert not registry.leases["jti-1"].held


# Leases of before a restart


def in_force(name: str = "a", jti: str = "old", seconds: float = 400.0) -> LeaseInForce:
    return LeaseInForce(jti, peer(name), T, drafter().digest, seconds)


def restarted(*leases: LeaseInForce) -> Registry:
    registry = make()
    assert registry.handle(LeasesRead(0.0, leases)) == []
    return registry


def beat(registry: Registry, at: float, *jtis: str) -> list[Instruction]:
    """What comes of the node's heartbeat that names these leases. The target sends one too, if it is here."""
    if T in registry.targets:
        registry.handle(TargetBeat(at, TARGET, TargetHeartbeat(0, 0, 0)))
    return registry.handle(NodeBeat(at, NODE, Heartbeat(0, leases=jtis)))


@pytest.mark.parametrize("adds", [(add_node, add_target), (add_target, add_node)])
def test_a_lease_of_before_is_renewed_once_both_are_back(adds: Any) -> None:
    registry = restarted(in_force())
    for add in adds:
        assert registry.leases == {}
        assert len(add(registry)) == 1
    assert registry.awaited == frozenset()
    assert (registry.leases["old"].held, registry.leased(peer("a"))) == (True, 1)
    for at in range(0, 100, 5):
        assert beat(registry, at, "old") == []
    assert registry.handle(Tick(99.0)) == []
    renewed, recorded = registry.handle(Tick(100.0))
    assert isinstance(renewed, RenewLease)
    assert (renewed.link, renewed.seconds) == (NODE, 600.0)
    terms = renewed.terms
    assert (terms.jti, terms.node, terms.target, terms.model) == ("old", peer("a"), T, "small")
    assert terms.addresses == ("ws://127.0.0.1:9/wanspec/draft",)
    assert recorded == RecordLease(terms, 600.0)


def test_a_lease_of_before_that_is_past_half_its_life_is_renewed_at_once() -> None:
    registry = restarted(in_force(seconds=10.0))
    add_target(registry)
    add_node(registry)
    assert isinstance(registry.handle(Tick(0.25))[0], RenewLease)


def test_a_slot_of_a_lease_of_before_is_taken() -> None:
    registry = restarted(in_force())
    add_node(registry, slots=1)
    assert registry.leased(peer("a")) == 1
    registry.handle(TargetRegistered(0.0, 5, PeerId("u" * 32), "default", target_registration()))
    (full,) = registry.handle(DraftersAsked(0.0, 5, DraftersWanted("x", 1)))
    assert isinstance(full, Send)
    assert "slots" in getattr(full.message, "reason", "")


def test_a_lease_of_before_of_which_somebody_does_not_come_back_ends_by_itself() -> None:
    registry = restarted(in_force("a", "one"), in_force("b", "other"))
    add_node(registry)
    for at in range(0, 400, 5):
        beat(registry, at, "one")
        assert registry.handle(Tick(at)) == []
    assert registry.awaited == {peer("a"), peer("b"), T}
    assert registry.handle(Tick(400.0)) == []
    assert (registry.awaited, registry.leased(peer("a"))) == (frozenset(), 0)
    assert len(add_target(registry, at=400.0)) == 1


def test_a_lease_of_before_that_its_node_does_not_name_was_let_go_of() -> None:
    revoked = [Send(TARGET, LeaseRevoked("old", "the node let go of it"))]
    registry = restarted(in_force())
    add_node(registry)
    assert beat(registry, 0.0) == []
    assert (registry.leased(peer("a")), registry.awaited) == (0, frozenset())
    assert add_target(registry)[1:] == revoked, "it may go on by it"
    registry = restarted(in_force())
    add_node(registry)
    add_target(registry)
    assert beat(registry, 0.0) == revoked


def test_a_lease_of_before_whose_peers_fit_no_more_is_revoked() -> None:
    registry = restarted(in_force())
    add_node(registry, models=(drafter(digest="1" * 64),))
    _, *revoked = add_target(registry)
    message = LeaseRevoked("old", "the node does not fit the target any more")
    assert revoked == [Send(NODE, message), Send(TARGET, message)]


def test_a_target_is_told_of_a_revoked_node_that_never_came_back() -> None:
    registry = restarted(in_force())
    add_target(registry)
    assert peer("a") in registry.awaited
    message = LeaseRevoked("old", "the operator has revoked a peer of it")
    assert registry.handle(Disenrolled(1.0, frozenset({peer("a")}))) == [Send(TARGET, message)]
    assert (registry.awaited, registry.leases) == (frozenset(), {})


def test_what_has_ended_is_told_again_until_nobody_could_go_on_by_it(registry: Registry) -> None:
    """The word of it may have gone to a link that was dying, or the target was started again and has forgotten."""
    ask(registry)
    answer(registry, "jti-1")
    message = LeaseRevoked("jti-1", "the node is gone")
    assert registry.handle(Disenrolled(1.0, frozenset({peer("a")})))[-1] == Send(TARGET, message)
    registry.handle(TargetLost(2.0, TARGET, "closed"))
    assert add_target(registry, link=7, at=3.0)[1:] == [Send(7, message)]
    lease_seconds = 600.0
    registry.handle(Tick(lease_seconds + HONOURED_SECONDS - 1.0))
    assert Send(8, message) in add_target(registry, link=8, at=lease_seconds + HONOURED_SECONDS - 1.0)
    registry.handle(Tick(lease_seconds + HONOURED_SECONDS))
    assert Send(9, message) not in add_target(registry, link=9, at=lease_seconds + HONOURED_SECONDS)


def test_nobody_makes_it_remember_without_end(registry: Registry) -> None:
    for number in range(MAX_ENDED + 5):
        ask(registry, at=float(number))
        answer(registry, f"jti-{number + 1}", accepted=False)
    told = [i.message for i in add_target(registry, link=7) if isinstance(i, Send)]
    ended = [message.jti for message in told if isinstance(message, LeaseRevoked)]
    assert ended == [f"jti-{number + 1}" for number in range(5, MAX_ENDED + 5)]


def test_who_comes_back_after_the_other_was_revoked_is_told_then() -> None:
    message = LeaseRevoked("old", "the operator has revoked a peer of it")
    registry = restarted(in_force())
    assert registry.handle(Disenrolled(1.0, frozenset({peer("a")}))) == []
    assert add_target(registry, at=2.0)[1:] == [Send(TARGET, message)]
    again = add_target(registry, link=5, at=3.0)
    assert [type(told) for told in again] == [Close, Send, TargetGone, Send], "it may have been started again"
    assert again[-1] == Send(5, message)
    registry = restarted(in_force())
    assert registry.handle(Disenrolled(1.0, frozenset({T}))) == []
    assert add_node(registry, at=2.0)[1:] == [Send(NODE, message)]


@pytest.mark.parametrize(("back", "told"), [(1499.0, True), (1500.0, False)])
def test_a_target_that_was_cut_off_is_told_what_ended_for_as_long_as_it_may_go_on(back: float, told: bool) -> None:
    registry = make()
    add_target(registry)
    add_node(registry)
    ask(registry)
    answer(registry, "jti-1")
    registry.handle(TargetLost(0.0, TARGET, "closed"))
    registry.handle(Tick(back))
    revoked = [Send(5, LeaseRevoked("jti-1", "the target is gone"))]
    assert add_target(registry, link=5, at=back)[1:] == (revoked if told else [])


def test_a_target_that_drains_gets_nobody(registry: Registry) -> None:
    registry.handle(TargetDraining(0.0, TARGET, "bye"))
    assert ask(registry) == [Send(TARGET, Drafters("w", (), "the target is draining"))]


def comparisons(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[PeerId]:
    """The nodes that are looked at closely from now on, as often as they are."""
    seen: list[PeerId] = []
    candidate = registry._candidate

    def counted(node: NodeRecord, target: TargetRecord, at: float) -> Candidate:
        seen.append(node.peer)
        return candidate(node, target, at)

    monkeypatch.setattr(registry, "_candidate", counted)
    return seen


def test_what_one_target_asks_within_a_second_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make()
    add_target(registry)
    for number in range(20):
        add_node(registry, link=100 + number, name=f"{number}")
    for number in range(8):
        assert isinstance(ask(registry, at=0.1 * number, want=f"w{number}")[0], OfferLease)
    compared = comparisons(registry, monkeypatch)
    reason = "the target has asked for drafters 8 times within a second"
    assert ask(registry, at=0.9, want="one more") == [Send(TARGET, Drafters("one more", (), reason))]
    assert ask(registry, at=0.9, want="w0") == []  # its answer is under way
    assert compared == []
    assert isinstance(ask(registry, at=1.0, want="later")[0], OfferLease)
    assert isinstance(ask(registry, at=1.05, want="too soon")[0], Send)


def test_only_free_nodes_of_its_own_pool_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make()
    add_target(registry)
    add_node(registry, link=3, name="b", pool="other")
    compared = comparisons(registry, monkeypatch)
    assert ask(registry) == [Send(TARGET, Drafters("w", (), "no node is registered in pool default"))]
    add_node(registry, slots=1)
    private = ask(registry, privacy=Privacy.PRIVATE)
    assert private == [Send(TARGET, Drafters("w", (), "the prompt is private"))]
    assert compared == []
    ask(registry)
    assert compared == [peer("a")]
    ask(registry, want="w2")  # it is full
    assert compared == [peer("a")]


def test_receipts_count_for_matching(registry: Registry) -> None:
    receipt = Receipt("r", peer("a"), "jti-1", "s", 10, 8, 6, 5, rtt=0.03, by_depth=((4, 3), (3, 5)))
    registry.handle(ReceiptsKept(0.0, TARGET, [receipt]))
    assert registry.tallies[peer("a")] == Tally(10, 8, 6, 5)
    assert registry.tallies[peer("a")].voices.together(0.0) == Positions(7, 7)  # no more are right than there were
    registry.handle(TargetLost(0.0, TARGET, "closed"))
    registry.handle(ReceiptsKept(0.0, TARGET, [receipt]))  # stored just after it left
    assert registry.tallies[peer("a")].drafted == 20
    assert registry.tallies[peer("a")].voices.together(0.0) == Positions(7, 7), "nobody says it any more"


def first_asked(registry: Registry) -> PeerId:
    """Whom the registry offers the lease to, when asked for one drafter."""
    (offer,) = ask(registry)
    assert isinstance(offer, OfferLease)
    return offer.terms.node


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"drafted": 0}, "a"),
        ({"drafted": 10}, "a"),
        ({"drafted": 10, "verified": 1}, "b"),
        ({"rounds": 15}, "b"),
    ],
    ids=["silent", "slow", "of use", "a short answer"],
)
def test_a_near_node_whose_drafts_come_to_nothing_is_offered_later(
    registry: Registry, fields: dict[str, Any], first: str
) -> None:
    add_node(registry, link=3, name="b", models=(drafter(speed=60.0),))  # faster than a says it is
    registry.handle(barren("a", verified=1))  # as far away
    registry.handle(barren("b", **fields))
    assert first_asked(registry) == peer(first)


def barren(name: str, link: int = TARGET, at: float = 0.0, **fields: Any) -> ReceiptsKept:
    counts = {"drafted": 0, "verified": 0, "accepted": 0, "won": 0, "rtt": 0.03, "rounds": 16}
    return ReceiptsKept(at, link, [Receipt("r", peer(name), "jti-1", "s", **(counts | fields))])


def test_one_target_alone_does_not_take_a_node_from_others(registry: Registry) -> None:
    for _ in range(9):
        registry.handle(barren("a"))
    assert registry.tallies[peer("a")].fruitless == {T: 0.0}
    for number in range(9):
        other = PeerId(str(number) * 32)
        registry.handle(TargetRegistered(0.0, 10 + number, other, "default", target_registration()))
        registry.handle(barren("a", link=10 + number))
    assert len(registry.tallies[peer("a")].fruitless) == matching.MOST_FRUITLESS
    registry.handle(barren("a", link=18, verified=1))
    assert other not in registry.tallies[peer("a")].fruitless
    assert len(registry.tallies[peer("a")].fruitless) == matching.MOST_FRUITLESS - 1
    registry.handle(TargetLost(0.0, 18, "closed"))
    registry.handle(barren("a", link=18))  # stored just after it left
    assert other not in registry.tallies[peer("a")].fruitless


def test_a_node_that_was_of_no_use_has_another_chance(registry: Registry) -> None:
    add_node(registry, link=3, name="b", models=(drafter(speed=60.0),))
    registry.handle(barren("b"))
    (offer,) = ask(registry, at=registry_module.FRUITLESS_SECONDS)
    assert isinstance(offer, OfferLease)
    assert offer.terms.node == peer("b")


@pytest.mark.parametrize("rtt", [0.2, None])
def test_what_comes_late_from_far_away_may_be_in_time_elsewhere(registry: Registry, rtt: float | None) -> None:
    registry.handle(barren("a", rtt=rtt))
    assert registry.tallies[peer("a")].fruitless == {}


def two_nodes(registry: Registry) -> None:
    add_node(registry, link=3, name="b")


def report(name: str, link: int = TARGET, **fields: Any) -> ReceiptsKept:
    return ReceiptsKept(0.0, link, [Receipt("r", peer(name), "j", "s", 0, 0, 0, 0, **fields)])


@pytest.mark.parametrize(("near", "far"), ["ab", "ba"])
def test_the_node_with_the_shorter_measured_way_is_asked_first(registry: Registry, near: str, far: str) -> None:
    two_nodes(registry)
    registry.handle(report(near, rtt=0.01))
    registry.handle(report(far, rtt=0.2))
    assert first_asked(registry) == peer(near)


@pytest.mark.parametrize(("near", "far"), ["ab", "ba"])
def test_a_way_nobody_measured_is_predicted_from_our_own_links(registry: Registry, near: str, far: str) -> None:
    two_nodes(registry)
    links = {"a": NODE, "b": 3}
    registry.handle(TargetBeat(0.0, TARGET, TargetHeartbeat(0, 0, 0), 0.002, 0.0))
    # What peers say of their links themselves does not count.
    registry.handle(NodeBeat(0.0, links[near], Heartbeat(0, rtt=1.0), 0.01, 0.001))
    registry.handle(NodeBeat(0.0, links[far], Heartbeat(0, rtt=0.0), 0.2, 0.001))
    assert registry.nodes[peer(near)].rtt == 0.01
    assert registry.nodes[peer(near)].jitter == 0.001
    assert first_asked(registry) == peer(near)


def test_predictions_are_judged_by_the_first_measurement(registry: Registry) -> None:
    registry.handle(TargetBeat(0.0, TARGET, TargetHeartbeat(0, 0, 0), 0.05, 0.0))
    registry.handle(NodeBeat(0.0, NODE, Heartbeat(0), 0.05, 0.0))
    assert registry.accuracy == Accuracy(0, None)
    for _ in range(2):
        registry.handle(report("a", rtt=0.05))
    assert registry.accuracy.checked == 1
    assert registry.accuracy.median_error is not None


@pytest.mark.parametrize(("near", "far"), ["ab", "ba"])
def test_a_way_that_nodes_timed_themselves_counts_until_a_target_has_measured_it(near: str, far: str) -> None:
    registry = make()
    add_target(registry)
    for link, name in enumerate("ab", NODE):
        registry.handle(NodeRegistered(0.0, link, peer(name), "default", node_registration(), landmarks=True))
        registry.handle(NodeBeat(0.0, link, Heartbeat(0), 0.05, 0.001))
        registry.handle(LandmarkTimed(0.0, link, Timed(T, 0.01 if name == near else 0.2)))
    assert registry.accuracy.checked == 0
    registry.handle(report(near, rtt=0.3))
    assert first_asked(registry) == peer(far)


def test_targets_of_other_pools_have_no_say_about_a_nodes_place() -> None:
    registry = make()
    add_target(registry)
    add_node(registry, pool="other")
    add_node(registry, link=3, name="b", pool="other")
    registry.handle(NodeBeat(0.0, NODE, Heartbeat(0), 0.05, 0.0))
    registry.handle(TargetBeat(0.0, TARGET, TargetHeartbeat(0, 0, 0), 0.05, 0.0))
    registry.handle(report("a", rtt=1.0))
    assert registry.accuracy.checked == 0


def test_who_left_is_off_the_map(registry: Registry) -> None:
    for _ in range(2):
        registry.handle(NodeBeat(0.0, NODE, Heartbeat(0), 0.05, 0.0))
        registry.handle(TargetBeat(0.0, TARGET, TargetHeartbeat(0, 0, 0), 0.05, 0.0))
        registry.handle(report("a", rtt=0.05))
        registry.handle(NodeLost(0.0, NODE, "closed"))
        add_node(registry)
    assert registry.accuracy.checked == 2  # its way was unknown again


@pytest.mark.parametrize(("better", "worse"), ["ab", "ba"])
def test_the_node_whose_model_is_right_more_often_is_asked_first(better: str, worse: str) -> None:
    """What the ledger remembers of pairs of models counts for nodes that have not drafted yet."""
    digests = {better: "e" * 64, worse: "f" * 64}
    shares = {better: 0.8, worse: 0.2}
    acceptance = [
        Acceptance(ModelPair("big", SERVED.digest, "x", digests[name]), {1: Positions(1000, int(1000 * shares[name]))})
        for name in "ab"
    ]
    registry = make(acceptance=acceptance)
    add_target(registry)
    for link, name in enumerate("ab", NODE):
        add_node(registry, link=link, name=name, models=(drafter(digest=digests[name]),))
    assert first_asked(registry) == peer(better)


def test_what_nodes_show_of_a_pair_of_models_counts_for_others_with_it(registry: Registry) -> None:
    add_node(registry, link=3, name="b", models=(drafter(digest="f" * 64),))
    add_node(registry, link=4, name="c")
    registry.handle(report("a", by_depth=((1000, 0),)))  # the model of a and of c
    assert first_asked(registry) == peer("b")


def other_target(registry: Registry, number: int) -> int:
    """One more target, with another model; its link."""
    served = msgspec.structs.replace(SERVED, digest=f"{number}" * 64)
    message = target_registration(model=served)
    registry.handle(TargetRegistered(0.0, 10 + number, PeerId(f"{number}" * 32), "default", message))
    return 10 + number


@pytest.mark.parametrize("right", [0, 1_000_000])
def test_what_one_target_says_of_a_node_is_one_voice_among_several(right: int) -> None:
    registry = make()
    add_target(registry)
    two_nodes_alike(registry)
    for number in range(3):
        link = other_target(registry, number)
        registry.handle(report("a", link=link, by_depth=((1000, 500),)))
        registry.handle(report("b", link=link, by_depth=((1000, 500),)))
    liar = other_target(registry, 3)
    registry.handle(report("a", link=liar, by_depth=((1_000_000, right),)))
    told = registry.tallies[peer("a")].voices.together(0.0)
    assert told == Positions(4000, 1500 + right // 1000)


def two_nodes_alike(registry: Registry) -> None:
    add_node(registry)
    two_nodes(registry)


def test_a_bad_day_of_a_node_fades_by_what_its_target_says_later(registry: Registry) -> None:
    for _ in range(10):
        registry.handle(report("a", by_depth=((1000, 0),)))
    for _ in range(30):
        registry.handle(report("a", by_depth=((100, 60),)))
    alpha = registry.tallies[peer("a")].voices.together(0.0).alpha
    assert alpha is not None
    assert alpha > 0.5


def test_a_node_that_was_thought_badly_of_is_asked_again_some_hours_later(registry: Registry) -> None:
    two_nodes(registry)
    registry.handle(report("a", by_depth=((1000, 0),)))
    assert registry._candidate(registry.nodes[peer("a")], registry.targets[T], VOICE_SECONDS - 1.0).positions.reached
    candidates = [registry._candidate(node, registry.targets[T], VOICE_SECONDS) for node in registry.nodes.values()]
    assert {(candidate.positions, candidate.usual) for candidate in candidates} == {(Positions(), None)}


@pytest.mark.parametrize("right", [0, 1_000_000_000])
def test_a_digest_that_a_target_merely_claims_is_one_voice_about_its_models(registry: Registry, right: int) -> None:
    add_node(registry, link=3, name="b")
    for _ in range(20):
        registry.handle(report("a", by_depth=((1000, 600),)))
    liar = PeerId("l" * 32)
    registry.handle(TargetRegistered(0.0, 9, liar, "default", target_registration()))
    registry.handle(report("a", link=9, by_depth=((1_000_000_000, right),)))
    usual = registry._candidate(registry.nodes[peer("b")], registry.targets[T], 0.0).usual
    assert usual == pytest.approx((0.6 + right / 1_000_000_000) / 2)


# The table

NODE_EVENTS = {
    NodeRegistered: NodeRegistered(0.0, NODE, peer("a"), "default", node_registration()),
    NodeBeat: NodeBeat(0.0, NODE, Heartbeat(0)),
    LeaseAnswered: LeaseAnswered(0.0, NODE, LeaseAnswer("x", True)),
    LandmarkTimed: LandmarkTimed(0.0, NODE, Timed(T, 0.01)),
    NodeDraining: NodeDraining(0.0, NODE, ""),
    NodeLost: NodeLost(0.0, NODE, ""),
}
TARGET_EVENTS = {
    TargetRegistered: TargetRegistered(0.0, TARGET, T, "default", target_registration()),
    TargetBeat: TargetBeat(0.0, TARGET, TargetHeartbeat(0, 0, 0)),
    DraftersAsked: DraftersAsked(0.0, TARGET, DraftersWanted("w", 1)),
    TargetDraining: TargetDraining(0.0, TARGET, ""),
    TargetLost: TargetLost(0.0, TARGET, ""),
    ReceiptsKept: ReceiptsKept(0.0, TARGET, []),
}


def in_state(state: PeerState) -> Registry:
    registry = make()
    if state is PeerState.UNKNOWN:
        return registry
    add_target(registry)
    add_node(registry)
    if state is PeerState.SILENT:
        registry.handle(Tick(7.0))
    if state is PeerState.DRAINING:
        registry.handle(NodeDraining(0.0, NODE, ""))
        registry.handle(TargetDraining(0.0, TARGET, ""))
    return registry


def test_the_table_has_every_pair() -> None:
    expected = set(itertools.product(PeerState, NODE_EVENTS | TARGET_EVENTS))
    assert set(registry_module._TABLE) == expected


@pytest.mark.parametrize("state", list(PeerState))
@pytest.mark.parametrize("event", [*NODE_EVENTS.values(), *TARGET_EVENTS.values()], ids=lambda e: type(e).__name__)
def test_every_pair_of_the_table_can_be_walked(state: PeerState, event: Any) -> None:
    registry = in_state(state)
    record = registry._links.get(event.link)
    assert (record.state if record else PeerState.UNKNOWN) is state
    instructions = registry.handle(event)
    assert all(isinstance(instruction, Instruction) for instruction in instructions)


@pytest.mark.parametrize("event", NODE_EVENTS.values(), ids=lambda e: type(e).__name__)
def test_an_event_of_the_other_role_is_our_bug(event: Any) -> None:
    registry = in_state(PeerState.ACTIVE)
    with pytest.raises(LocalProtocolError):
        registry.handle(type(event)(event.at, TARGET, *list_fields(event)))


def list_fields(event: Any) -> list[Any]:
    return [getattr(event, name) for name in event.__slots__ if name not in ("at", "link")]
