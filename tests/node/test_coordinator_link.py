from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.coordinator_events import (
    AnswerProbe,
    DrainRequested,
    DropLease,
    Event,
    GiveUp,
    HangUp,
    Instruction,
    Joined,
    LeaseLost,
    LinkLost,
    LinkOpened,
    LoadChanged,
    Misunderstood,
    Redial,
    Refused,
    Send,
    TakeLease,
    Tick,
    TimeLandmarks,
)
from node.coordinator_link import MAX_HEARTBEAT, MIN_HEARTBEAT, ORPHAN_SECONDS, CoordinatorLink, State
from node.limits import LendingLimits
from tests.support.node_facts import NodeFacts
from wanspec_p2p.errors import CloseCode, LocalProtocolError, PeerRefused, RemoteProtocolError
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks, LeaseOffer, LeaseRenewed, ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, LeaseAnswer
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import LEEWAY_SECONDS, check, issue
from wanspec_p2p.types import PeerId

LIMITS = LendingLimits(slots=2, max_prefix=100, leases=2)
LANDMARKS = Landmarks((Landmark(PeerId("t" * 32), "wss://gpu.example:1/wanspec/draft"),))
PROBE = ProbeRequest(probe="p", model="small", prefix=(1, 2), count=3)


@pytest.fixture
def facts() -> NodeFacts:
    return NodeFacts()


def machine_of(
    facts: NodeFacts, *, secret: str = "s3cret", enrolled: bool = False, loopback: bool = True
) -> CoordinatorLink:
    return CoordinatorLink(
        facts.registration(),
        secret=secret,
        enrolled=enrolled,
        check=partial(check, coordinator=facts.coordinator.public_key, clock=facts.clock, node=facts.node.peer_id),
        limits=LIMITS,
        loopback=lambda: loopback,
    )


@pytest.fixture
def machine(facts: NodeFacts) -> CoordinatorLink:
    return machine_of(facts)


@pytest.fixture
def member(machine: CoordinatorLink) -> CoordinatorLink:
    machine.handle(LinkOpened())
    machine.handle(Registered(pool="default", heartbeat=2.0))
    return machine


def refused(code: int, reason: str = "no") -> Refused:
    return Refused(PeerRefused(code, reason))


def take(machine: CoordinatorLink, facts: NodeFacts, jti: str = "lease-1", **more: object) -> list[Instruction]:
    return machine.handle(LeaseOffer(jti=jti, lease=facts.lease(jti, **more).text))  # type: ignore[arg-type]  # claims


# Registering


def test_first_contact_shows_the_secret_once(machine: CoordinatorLink, facts: NodeFacts) -> None:
    assert machine.handle(LinkOpened()) == [Send(msgspec.structs.replace(facts.registration(), join_secret="s3cret"))]
    assert machine.handle(Registered(pool="lab", heartbeat=2.0)) == [Joined("lab", 2.0)]
    machine.handle(LinkLost("broke"))
    assert machine.handle(LinkOpened()) == [Send(facts.registration())]


def test_a_member_with_a_token_keeps_its_secret_back(facts: NodeFacts) -> None:
    machine = machine_of(facts, enrolled=True)
    assert machine.handle(LinkOpened()) == [Send(facts.registration())]


def test_a_member_that_was_forgotten_shows_the_secret_after_all(facts: NodeFacts) -> None:
    machine = machine_of(facts, enrolled=True)
    machine.handle(LinkOpened())
    assert machine.handle(refused(CloseCode.NOT_ENROLLED)) == [Redial("no")]
    assert machine.handle(LinkOpened()) == [Send(msgspec.structs.replace(facts.registration(), join_secret="s3cret"))]
    assert isinstance(machine.handle(refused(CloseCode.NOT_ENROLLED))[-1], GiveUp)


@pytest.mark.parametrize(("asked", "kept"), [(0.0, MIN_HEARTBEAT), (5.0, 5.0), (1e12, MAX_HEARTBEAT)])
def test_the_pace_of_heartbeats_stays_within_reason(machine: CoordinatorLink, asked: float, kept: float) -> None:
    machine.handle(LinkOpened())
    assert machine.handle(Registered(pool="lab", heartbeat=asked)) == [Joined("lab", kept)]


@pytest.mark.parametrize(
    "code",
    [
        CloseCode.NOT_ENROLLED,
        CloseCode.JOIN_REFUSED,
        CloseCode.TOKENIZER_MISMATCH,
        CloseCode.VERSION_MISMATCH,
        CloseCode.REPLACED,
    ],
)
def test_a_final_refusal_ends_the_node_with_that_error(machine: CoordinatorLink, code: CloseCode) -> None:
    machine.handle(LinkOpened())
    event = refused(code, "because")
    assert machine.handle(event) == [GiveUp(event.error)]
    assert machine.state is State.ENDED


def test_another_version_is_final_on_first_contact_and_later_is_not(facts: NodeFacts) -> None:
    """It is said before a key is proved: whoever has taken the coordinator's port can say it."""
    event = refused(CloseCode.VERSION_MISMATCH, "upgrade")
    assert machine_of(facts).handle(event) == [GiveUp(event.error)]
    assert machine_of(facts, enrolled=True).handle(event) == [Redial("upgrade")]


@pytest.mark.parametrize("code", [CloseCode.TRY_AGAIN_LATER, CloseCode.INTERNAL_ERROR, CloseCode.POLICY_VIOLATION])
def test_any_other_refusal_is_tried_again_when_the_coordinator_says(machine: CoordinatorLink, code: CloseCode) -> None:
    event = replace(refused(code, "full"), retry_after=7.0)
    assert machine.handle(event) == [Redial("full", 7.0)]
    assert machine.state is State.OFFLINE


def test_an_impostor_on_first_contact_is_final_and_later_is_not(facts: NodeFacts) -> None:
    error = RemoteProtocolError("somebody else", CloseCode.HANDSHAKE_FAILED)
    assert machine_of(facts).handle(Misunderstood(error)) == [GiveUp(error)]
    assert machine_of(facts, enrolled=True).handle(Misunderstood(error)) == [Redial("somebody else")]


# Heartbeats


def test_a_heartbeat_names_sessions_leases_and_rtt(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts, "b")
    take(member, facts, "a", target=Identity.generate())
    member.handle(LoadChanged(1, paused=""))
    beat = member.handle(Tick(facts.clock.wall(), rtt=0.03))
    assert beat == [Send(Heartbeat(sessions=1, leases=("a", "b"), rtt=0.03))]


@pytest.mark.parametrize("connected", [True, False])
def test_an_expired_lease_is_dropped_later_while_the_coordinator_is_away(
    member: CoordinatorLink, facts: NodeFacts, connected: bool
) -> None:
    lease = facts.lease()
    take(member, facts)
    if not connected:
        member.handle(LinkLost("broke"))
    end = lease.claims.expires + (LEEWAY_SECONDS if connected else ORPHAN_SECONDS)
    assert DropLease(lease, "it has expired") not in member.handle(Tick(end))
    assert DropLease(lease, "it has expired") in member.handle(Tick(end + 1))
    assert member.leases == {}


# Leases


def test_an_offer_is_accepted_and_taken(member: CoordinatorLink, facts: NodeFacts) -> None:
    lease = facts.lease()
    assert take(member, facts) == [Send(LeaseAnswer(jti="lease-1", accepted=True)), TakeLease(lease)]
    assert member.leases == {facts.target.peer_id: lease}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node": Identity.generate().peer_id}, "for another node"),
        ({"digest": "0" * 64}, "does not have"),
        ({"addresses": ("ws://203.0.113.7:1/wanspec/draft",)}, "no address that may be dialled"),
        ({"expires": 1}, "expired"),
    ],
)
def test_an_unfit_offer_is_declined_with_the_reason(
    member: CoordinatorLink, facts: NodeFacts, changes: dict[str, object], reason: str
) -> None:
    (send,) = take(member, facts, **changes)
    assert isinstance(send, Send)
    assert isinstance(send.message, LeaseAnswer)
    assert not send.message.accepted
    assert reason in send.message.reason
    assert member.leases == {}


def test_a_target_on_this_machine_is_looked_for_only_where_the_coordinator_is_here_too(facts: NodeFacts) -> None:
    elsewhere = machine_of(facts, loopback=False)
    elsewhere.handle(LinkOpened())
    elsewhere.handle(Registered("default", 2.0))
    (send,) = take(elsewhere, facts)
    assert isinstance(send, Send)
    assert isinstance(send.message, LeaseAnswer)
    assert not send.message.accepted
    assert "no address that may be dialled" in send.message.reason
    here = Landmark(PeerId("u" * 32), "ws://127.0.0.1:1/wanspec/draft")
    assert elsewhere.handle(Landmarks((here, *LANDMARKS.landmarks))) == [TimeLandmarks(LANDMARKS.landmarks)]
    addresses = (here.address, "wss://gpu.example:1/wanspec/draft")
    _, taken = take(elsewhere, facts, addresses=addresses, certificate="c" * 64)
    assert isinstance(taken, TakeLease)
    assert taken.lease.addresses == addresses[1:]


def test_a_lease_of_another_coordinator_is_declined(member: CoordinatorLink, facts: NodeFacts) -> None:
    forged = issue(Identity.generate(), facts.claims())
    (send,) = member.handle(LeaseOffer(jti="lease-1", lease=forged))
    assert isinstance(send, Send)
    assert isinstance(send.message, LeaseAnswer)
    assert (send.message.accepted, send.message.reason) == (False, "the lease is not signed by this coordinator")


@pytest.mark.parametrize("load", [LoadChanged(2, paused=""), LoadChanged(0, paused="its model failed")])
def test_an_offer_is_declined_without_room(member: CoordinatorLink, facts: NodeFacts, load: LoadChanged) -> None:
    member.handle(load)
    (send,) = take(member, facts)
    assert isinstance(send, Send)
    assert isinstance(send.message, LeaseAnswer)
    assert not send.message.accepted


def test_a_second_lease_for_a_target_replaces_the_first_even_without_room(
    member: CoordinatorLink, facts: NodeFacts
) -> None:
    take(member, facts, "a")
    member.handle(LoadChanged(2, paused=""))
    assert take(member, facts, "b")[1:] == [TakeLease(facts.lease("b"))]
    assert [held.claims.jti for held in member.leases.values()] == ["b"]
    assert member.handle(LeaseRevoked(jti="a", reason="old")) == []


def test_a_renewed_lease_is_taken(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    facts.clock.advance(300)
    renewed = facts.lease()
    assert member.handle(LeaseRenewed(jti="lease-1", lease=renewed.text)) == [TakeLease(renewed)]
    assert member.leases[facts.target.peer_id] == renewed


def test_a_renewal_of_what_is_not_held_is_answered_so(member: CoordinatorLink, facts: NodeFacts) -> None:
    (send,) = member.handle(LeaseRenewed(jti="lease-1", lease=facts.lease().text))
    assert send == Send(LeaseAnswer(jti="lease-1", accepted=False, reason="this lease is not held here"))


def test_a_renewal_for_another_target_ends_the_lease(member: CoordinatorLink, facts: NodeFacts) -> None:
    old = facts.lease()
    take(member, facts)
    drop, send = member.handle(LeaseRenewed(jti="lease-1", lease=facts.lease(target=Identity.generate()).text))
    assert drop == DropLease(old, "a renewed lease must name the same target")
    assert isinstance(send, Send)
    assert member.leases == {}


def test_a_revoked_lease_is_dropped_once(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    assert member.handle(LeaseRevoked(jti="lease-1", reason="target gone")) == [DropLease(facts.lease(), "target gone")]
    assert member.handle(LeaseRevoked(jti="lease-1", reason="target gone")) == []


def test_leases_outlive_the_link(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    assert member.handle(LinkLost("broke")) == [Redial("broke")]
    assert member.leases == {facts.target.peer_id: facts.lease()}


def test_a_lease_the_target_refuses_is_given_back(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    assert member.handle(LeaseLost("lease-1", "too old")) == [
        DropLease(facts.lease(), "too old"),
        Send(LeaseAnswer(jti="lease-1", accepted=False, reason="too old")),
    ]
    assert member.handle(LeaseLost("lease-1", "too old")) == []


def test_a_lease_lost_while_the_coordinator_is_away_is_only_forgotten(
    member: CoordinatorLink, facts: NodeFacts
) -> None:
    take(member, facts)
    member.handle(LinkLost("broke"))
    assert member.handle(LeaseLost("lease-1", "too old")) == [DropLease(facts.lease(), "too old")]


def test_a_probe_is_passed_on(member: CoordinatorLink) -> None:
    assert member.handle(PROBE) == [AnswerProbe(PROBE)]


def test_landmarks_are_passed_on(member: CoordinatorLink) -> None:
    assert member.handle(LANDMARKS) == [TimeLandmarks(LANDMARKS.landmarks)]


# The end


def test_draining_says_so_lets_go_and_hangs_up(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    assert member.handle(DrainRequested("bye")) == [
        Send(Drain(reason="bye")),
        DropLease(facts.lease(), "bye"),
        HangUp("bye"),
    ]
    assert member.state is State.ENDED


def test_draining_without_a_link_only_ends(machine: CoordinatorLink) -> None:
    assert machine.handle(DrainRequested("bye")) == [HangUp("bye")]


def test_being_removed_lets_go_of_every_lease(member: CoordinatorLink, facts: NodeFacts) -> None:
    take(member, facts)
    event = refused(CloseCode.NOT_ENROLLED)
    drop, end = member.handle(event)
    assert isinstance(drop, DropLease)
    assert end == GiveUp(event.error)


# The table

OWN: tuple[Event, ...] = (
    LinkOpened(),
    LinkLost("broke"),
    refused(CloseCode.INTERNAL_ERROR),
    Misunderstood(RemoteProtocolError("what")),
    Tick(0.0),
    LoadChanged(0, paused=""),
    LeaseLost("x", "gone"),
    DrainRequested("bye"),
)
MESSAGES: tuple[Event, ...] = (
    Registered(pool="default", heartbeat=2.0),
    LeaseOffer(jti="x", lease="y"),
    LeaseRenewed(jti="x", lease="y"),
    LeaseRevoked(jti="x", reason=""),
    PROBE,
    LANDMARKS,
)
EXPECTED = {
    State.OFFLINE: {LinkOpened},
    State.REGISTERING: {Registered},
    State.MEMBER: {LeaseOffer, LeaseRenewed, LeaseRevoked, ProbeRequest, Landmarks},
    State.ENDED: {Registered, LeaseOffer, LeaseRenewed, LeaseRevoked, ProbeRequest, Landmarks},
}
ALWAYS = {type(event) for event in OWN} - {LinkOpened}


def in_state(facts: NodeFacts, state: State) -> CoordinatorLink:
    machine = machine_of(facts)
    if state is State.ENDED:
        machine.handle(DrainRequested("bye"))
    elif state is not State.OFFLINE:
        machine.handle(LinkOpened())
        if state is State.MEMBER:
            machine.handle(Registered(pool="default", heartbeat=2.0))
    assert machine.state is state
    return machine


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", OWN + MESSAGES, ids=lambda event: type(event).__name__)
def test_every_pair_of_state_and_event(facts: NodeFacts, state: State, event: Event) -> None:
    machine = in_state(facts, state)
    if type(event) in EXPECTED[state] | ALWAYS:
        instructions = machine.handle(event)
        assert state is not State.ENDED or instructions == []
    else:
        with pytest.raises(RemoteProtocolError if event in MESSAGES else LocalProtocolError):
            machine.handle(event)
        assert machine.state is state


FACTS = NodeFacts()
TARGETS = [Identity.generate() for _ in range(3)]
LEASES = [FACTS.lease(f"l{i}", target=TARGETS[i % 3]) for i in range(5)]
EVENTS = st.one_of(
    st.sampled_from(OWN + MESSAGES),
    st.builds(Tick, st.sampled_from([0.0, FACTS.clock.wall() + 700, FACTS.clock.wall() + 2000])),
    st.builds(LoadChanged, st.integers(0, 3), st.sampled_from(["", "paused"])),
    st.builds(lambda code: refused(code), st.sampled_from(list(CloseCode))),
    st.sampled_from([LeaseOffer(jti=held.claims.jti, lease=held.text) for held in LEASES]),
    st.sampled_from([LeaseRenewed(jti=held.claims.jti, lease=held.text) for held in LEASES]),
    st.sampled_from([LeaseRevoked(jti=held.claims.jti, reason="r") for held in LEASES]),
    st.sampled_from([LeaseLost(held.claims.jti, "r") for held in LEASES]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_each_lease_is_taken_and_dropped_in_turn(events: list[Event]) -> None:
    machine = machine_of(FACTS)
    held: dict[str, str] = {}
    for event in events:
        before = machine.state
        try:
            instructions = machine.handle(event)
        except (LocalProtocolError, RemoteProtocolError):
            assert machine.state is before
            continue
        for instruction in instructions:
            if isinstance(instruction, TakeLease):
                held[instruction.lease.claims.target] = instruction.lease.claims.jti
            elif isinstance(instruction, DropLease):
                assert held.pop(instruction.lease.claims.target) == instruction.lease.claims.jti
            elif isinstance(instruction, Send):
                assert before is not State.OFFLINE or isinstance(event, LinkOpened)
                assert before is not State.ENDED
        assert {held.claims.jti for held in machine.leases.values()} == set(held.values())
        assert len(held) <= LIMITS.leases
        if machine.state is State.ENDED:
            assert held == {}
            assert before is State.ENDED or isinstance(instructions[-1], GiveUp | HangUp)
