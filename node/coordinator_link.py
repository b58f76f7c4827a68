"""The rules of a node's link to its coordinator: registering, heartbeats, leases and the drain. Pure; `control` awaits.

    OFFLINE ──LinkOpened──▶ REGISTERING ──Registered──▶ MEMBER
       ▲                        │                          │
       └────────LinkLost────────┴──────────────────────────┘        any ──DrainRequested, a final refusal──▶ ENDED

Leases outlive the link: a target goes on with its drafters while the coordinator is away, and so do they.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec

from node.coordinator_events import (
    AnswerProbe,
    CoordinatorMessage,
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
from node.lease_checks import Held, dialable, may_be_timed, unfit
from node.limits import LendingLimits, Load
from wanspec_p2p.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from wanspec_p2p.links.closing import ends_a_service
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import Landmarks, LeaseOffer, LeaseRenewed, ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, LeaseAnswer, RegisterNode
from wanspec_p2p.security.leases import LEEWAY_SECONDS, LeaseClaims
from wanspec_p2p.types import PeerId

__all__ = ["CoordinatorLink", "State"]

FINAL_REFUSALS = frozenset(
    {
        CloseCode.NOT_ENROLLED,
        CloseCode.JOIN_REFUSED,
        CloseCode.TOKENIZER_MISMATCH,
        CloseCode.VERSION_MISMATCH,  # on first contact; see `ends_a_service`
        CloseCode.REPLACED,  # two daemons with one identity would otherwise throw each other out for ever
    }
)
ORPHAN_SECONDS = 900.0
"""How much longer a lease is honoured while the coordinator cannot be reached to renew it."""
MIN_HEARTBEAT, MAX_HEARTBEAT = 0.2, 60.0


class State(enum.Enum):
    OFFLINE = "offline"
    REGISTERING = "registering"
    MEMBER = "member"
    ENDED = "ended"


Handled: TypeAlias = list[Instruction]


class CoordinatorLink:
    """One node's side of the control link, over all its reconnections.

    Args:
        registration: what this node says of itself, without a secret.
        secret: the join secret, shown on first contact only; empty when there is none.
        enrolled: the coordinator already knows our key, so the secret is kept back unless it has forgotten us.
        check: the claims of a lease for this node that this coordinator signed; RemoteProtocolError otherwise.
        limits: when to take on another target.
        loopback: whether the coordinator was reached on this machine; only then is a target looked for here.
    """

    def __init__(
        self,
        registration: RegisterNode,
        *,
        secret: str,
        enrolled: bool,
        check: Callable[[str], LeaseClaims],
        limits: LendingLimits,
        loopback: Callable[[], bool],
    ) -> None:
        self.state = State.OFFLINE
        self._loopback = loopback
        self._registration, self._check, self._limits = registration, check, limits
        self._secret = secret
        self._enrolled = enrolled
        self._show_secret = bool(secret) and not enrolled
        self._load = Load()
        self._leases: dict[PeerId, Held] = {}

    @property
    def leases(self) -> Mapping[PeerId, Held]:
        """The lease held for each target."""
        return self._leases

    def handle(self, event: Event) -> Handled:
        """The one door.

        Raises:
            RemoteProtocolError: a message the coordinator must not send in this state.
            LocalProtocolError: an event our own runner must not produce in this state.
        """
        handler = _TABLE.get((self.state, type(event)))
        if handler is None:
            words = f"{type(event).__name__} is not expected while {self.state.value}"
            raise RemoteProtocolError(words) if isinstance(event, CoordinatorMessage) else LocalProtocolError(words)
        return handler(self, event)

    def _on_opened(self, event: LinkOpened) -> Handled:
        self.state = State.REGISTERING
        secret = self._secret if self._show_secret else ""
        return [Send(msgspec.structs.replace(self._registration, join_secret=secret))]

    def _on_registered(self, event: Registered) -> Handled:
        self.state = State.MEMBER
        self._enrolled = True
        self._secret, self._show_secret = "", False  # spent
        return [Joined(event.pool, min(max(event.heartbeat, MIN_HEARTBEAT), MAX_HEARTBEAT))]

    def _on_lost(self, event: LinkLost) -> Handled:
        self.state = State.OFFLINE
        return [Redial(event.reason, event.retry_after)]

    def _on_refused(self, event: Refused) -> Handled:
        if event.error.code == CloseCode.NOT_ENROLLED and self._secret and not self._show_secret:
            self._show_secret = True  # it has forgotten us, and the operator gave us a token for that
            self.state = State.OFFLINE
            return [Redial(event.error.reason)]
        if ends_a_service(event.error, FINAL_REFUSALS, enrolled=self._enrolled):
            self.state = State.ENDED
            return [*self._drop_all("the coordinator does not want this node"), GiveUp(event.error)]
        self.state = State.OFFLINE
        return [Redial(event.error.reason, event.retry_after)]

    def _on_misunderstood(self, event: Misunderstood) -> Handled:
        if not self._enrolled:
            # Never a member here: the token is for another coordinator, or an impostor answers in its place.
            self.state = State.ENDED
            return [GiveUp(event.error)]
        self.state = State.OFFLINE
        return [Redial(event.error.reason)]

    def _on_tick(self, event: Tick) -> Handled:
        grace = LEEWAY_SECONDS if self.state is State.MEMBER else ORPHAN_SECONDS
        over = [held for held in self._leases.values() if held.claims.expires + grace < event.wall]
        instructions: Handled = [self._drop(held, "it has expired") for held in over]
        if self.state is State.MEMBER:
            jtis = tuple(sorted(held.claims.jti for held in self._leases.values()))
            instructions.append(Send(Heartbeat(sessions=self._load.sessions, leases=jtis, rtt=event.rtt)))
        return instructions

    def _on_load(self, event: LoadChanged) -> Handled:
        self._load = Load(sessions=event.sessions, paused=event.paused)
        return []

    def _on_offer(self, event: LeaseOffer) -> Handled:
        held = self._checked(event)
        if isinstance(held, str):
            return [Send(LeaseAnswer(jti=event.jti, accepted=False, reason=held))]
        # A new lease for a target we already draft for replaces the old one and needs no further slot.
        load = replace(self._load, leases=len(self._leases))
        refusal = None if held.claims.target in self._leases else self._limits.refuse_lease(load)
        if refusal is not None:
            return [Send(LeaseAnswer(jti=event.jti, accepted=False, reason=refusal))]
        self._leases[held.claims.target] = held
        return [Send(LeaseAnswer(jti=event.jti, accepted=True)), TakeLease(held)]

    def _on_renewed(self, event: LeaseRenewed) -> Handled:
        old = self._find(event.jti)
        if old is None:
            return [Send(LeaseAnswer(jti=event.jti, accepted=False, reason="this lease is not held here"))]
        held = self._checked(event)
        if isinstance(held, str) or held.claims.target != old.claims.target:
            reason = held if isinstance(held, str) else "a renewed lease must name the same target"
            return [self._drop(old, reason), Send(LeaseAnswer(jti=event.jti, accepted=False, reason=reason))]
        self._leases[held.claims.target] = held
        return [TakeLease(held)]

    def _on_revoked(self, event: LeaseRevoked) -> Handled:
        held = self._find(event.jti)
        return [] if held is None else [self._drop(held, event.reason or "revoked")]

    def _on_lease_lost(self, event: LeaseLost) -> Handled:
        held = self._find(event.jti)
        if held is None:
            return []
        instructions: Handled = [self._drop(held, event.reason)]
        if self.state is State.MEMBER:
            instructions.append(Send(LeaseAnswer(jti=event.jti, accepted=False, reason=event.reason)))
        return instructions

    def _on_probe(self, event: ProbeRequest) -> Handled:
        return [AnswerProbe(event)]

    def _on_landmarks(self, event: Landmarks) -> Handled:
        loopback = self._loopback()
        return [TimeLandmarks(tuple(mark for mark in event.landmarks if may_be_timed(mark, loopback=loopback)))]

    def _on_drain(self, event: DrainRequested) -> Handled:
        say = [Send(Drain(reason=event.reason))] if self.state is State.MEMBER else []
        self.state = State.ENDED
        return [*say, *self._drop_all(event.reason), HangUp(event.reason)]

    def _on_nothing(self, event: Event) -> Handled:
        return []  # it crossed our leaving

    def _checked(self, event: LeaseOffer | LeaseRenewed) -> Held | str:
        """The lease in it, or why it is not for us."""
        try:
            claims = self._check(event.lease)
        except RemoteProtocolError as error:
            return error.reason
        addresses = dialable(claims, loopback=self._loopback())
        return unfit(claims, event.jti, self._registration.models, addresses) or Held(claims, event.lease, addresses)

    def _find(self, jti: str) -> Held | None:
        return next((held for held in self._leases.values() if held.claims.jti == jti), None)

    def _drop(self, held: Held, reason: str) -> DropLease:
        del self._leases[held.claims.target]
        return DropLease(held, reason)

    def _drop_all(self, reason: str) -> Handled:
        return [self._drop(held, reason) for held in tuple(self._leases.values())]


_Handler: TypeAlias = Callable[[CoordinatorLink, Any], Handled]
_ALWAYS: dict[type, _Handler] = {
    Tick: CoordinatorLink._on_tick,
    LoadChanged: CoordinatorLink._on_load,
    LeaseLost: CoordinatorLink._on_lease_lost,
    LinkLost: CoordinatorLink._on_lost,
    Refused: CoordinatorLink._on_refused,
    Misunderstood: CoordinatorLink._on_misunderstood,
    DrainRequested: CoordinatorLink._on_drain,
}
_BY_STATE: dict[State, dict[type, _Handler]] = {
    State.OFFLINE: {**_ALWAYS, LinkOpened: CoordinatorLink._on_opened},
    State.REGISTERING: {**_ALWAYS, Registered: CoordinatorLink._on_registered},
    State.MEMBER: {
        **_ALWAYS,
        LeaseOffer: CoordinatorLink._on_offer,
        LeaseRenewed: CoordinatorLink._on_renewed,
        LeaseRevoked: CoordinatorLink._on_revoked,
        ProbeRequest: CoordinatorLink._on_probe,
        Landmarks: CoordinatorLink._on_landmarks,
    },
    State.ENDED: dict.fromkeys(
        (*_ALWAYS, Registered, LeaseOffer, LeaseRenewed, LeaseRevoked, ProbeRequest, Landmarks),
        CoordinatorLink._on_nothing,
    ),
}
_TABLE: dict[tuple[State, type], _Handler] = {
    (state, event): handler for state, row in _BY_STATE.items() for event, handler in row.items()
}
