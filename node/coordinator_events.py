"""What can happen on a node's control link, and what its rules can ask for. One class per outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from node.lease_checks import Held
from wanspec_p2p.errors import PeerRefused, RemoteProtocolError
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks, LeaseOffer, LeaseRenewed, ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, LeaseAnswer, RegisterNode

__all__ = [
    "AnswerProbe",
    "CoordinatorMessage",
    "DrainRequested",
    "DropLease",
    "Event",
    "GiveUp",
    "HangUp",
    "Instruction",
    "Joined",
    "LeaseLost",
    "LinkLost",
    "LinkOpened",
    "LoadChanged",
    "Misunderstood",
    "Redial",
    "Refused",
    "Send",
    "TakeLease",
    "Tick",
    "TimeLandmarks",
]


# What can happen, beside the coordinator's messages


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """The handshake with the coordinator is complete."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link broke, or nobody answered."""

    reason: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """The coordinator ended the link with a reason of its own."""

    error: PeerRefused
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Misunderstood:
    """Whoever answered is not our coordinator, or does not speak as one must."""

    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `wall` is in seconds since the Unix epoch, `rtt` in seconds."""

    wall: float
    rtt: float | None = None


@dataclass(frozen=True, slots=True)
class LoadChanged:
    """`paused` says why nothing new may be taken on for now; empty where it may."""

    sessions: int
    paused: str = ""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The target would not have us, for good."""

    jti: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainRequested:
    reason: str


# What can be asked for


@dataclass(frozen=True, slots=True)
class Send:
    message: RegisterNode | Heartbeat | LeaseAnswer | Drain


@dataclass(frozen=True, slots=True)
class Joined:
    """We are known: remember the coordinator, send a heartbeat every so many seconds."""

    pool: str
    heartbeat: float


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Draft for its target from now on, or go on doing so under this lease."""

    lease: Held


@dataclass(frozen=True, slots=True)
class DropLease:
    lease: Held
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerProbe:
    request: ProbeRequest


@dataclass(frozen=True, slots=True)
class TimeLandmarks:
    landmarks: tuple[Landmark, ...]


@dataclass(frozen=True, slots=True)
class Redial:
    """Dial again after a back-off that does not undercut `retry_after` seconds."""

    reason: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class HangUp:
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Trying again would change nothing: the operator has to act."""

    error: PeerRefused | RemoteProtocolError


CoordinatorMessage: TypeAlias = Registered | LeaseOffer | LeaseRenewed | LeaseRevoked | ProbeRequest | Landmarks
Event: TypeAlias = (
    CoordinatorMessage
    | LinkOpened
    | LinkLost
    | Refused
    | Misunderstood
    | Tick
    | LoadChanged
    | LeaseLost
    | DrainRequested
)
Instruction: TypeAlias = Send | Joined | TakeLease | DropLease | AnswerProbe | TimeLandmarks | Redial | HangUp | GiveUp
