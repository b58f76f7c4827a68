"""What can happen to the registry. Each event carries the moment it happened (`at`, monotonic seconds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wanspec_p2p.protocol.node_to_coordinator import Heartbeat, LeaseAnswer, RegisterNode, Timed
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted, Receipt, RegisterTarget, TargetHeartbeat
from wanspec_p2p.types import PeerId

__all__ = [
    "Disenrolled",
    "DraftersAsked",
    "Event",
    "LandmarkTimed",
    "LeaseAnswered",
    "LeaseInForce",
    "LeasesRead",
    "LinkId",
    "NodeBeat",
    "NodeDraining",
    "NodeLost",
    "NodeRegistered",
    "PeerEvent",
    "ReceiptsKept",
    "TargetBeat",
    "TargetDraining",
    "TargetLost",
    "TargetRegistered",
    "Tick",
]

LinkId: TypeAlias = int
"""One connection. A peer that connects again has another link, so that late news of the old one is told apart."""


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """A node the ledger admits has said what it can do. `landmarks`: its link has the feature of that name."""

    at: float
    link: LinkId
    peer: PeerId
    pool: str
    message: RegisterNode
    landmarks: bool = False


@dataclass(frozen=True, slots=True)
class NodeBeat:
    """`rtt` and `jitter` in seconds are our own end's measurements of the link; the peer's word is in the message."""

    at: float
    link: LinkId
    message: Heartbeat
    rtt: float | None = None
    jitter: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseAnswered:
    at: float
    link: LinkId
    message: LeaseAnswer


@dataclass(frozen=True, slots=True)
class LandmarkTimed:
    at: float
    link: LinkId
    message: Timed


@dataclass(frozen=True, slots=True)
class NodeDraining:
    at: float
    link: LinkId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeLost:
    at: float
    link: LinkId
    reason: str


@dataclass(frozen=True, slots=True)
class TargetRegistered:
    at: float
    link: LinkId
    peer: PeerId
    pool: str
    message: RegisterTarget


@dataclass(frozen=True, slots=True)
class TargetBeat:
    """As `NodeBeat`."""

    at: float
    link: LinkId
    message: TargetHeartbeat
    rtt: float | None = None
    jitter: float | None = None


@dataclass(frozen=True, slots=True)
class DraftersAsked:
    at: float
    link: LinkId
    message: DraftersWanted


@dataclass(frozen=True, slots=True)
class TargetDraining:
    at: float
    link: LinkId
    reason: str


@dataclass(frozen=True, slots=True)
class TargetLost:
    at: float
    link: LinkId
    reason: str


@dataclass(frozen=True, slots=True)
class ReceiptsKept:
    """Receipts of a target are on disk; `receipts` holds only those that were new and count (`Ledger`)."""

    at: float
    link: LinkId
    receipts: Sequence[Receipt]


@dataclass(frozen=True, slots=True)
class Disenrolled:
    """The operator has taken back what let these peers in."""

    at: float
    peers: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class LeaseInForce:
    """What the ledger knows of a lease that has not ended: of which drafter's weights, and for how many seconds yet."""

    jti: str
    node: PeerId
    target: PeerId
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LeasesRead:
    """The coordinator was started again: leases that were given before, and what they are for, are in the ledger."""

    at: float
    leases: Sequence[LeaseInForce]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed and nothing else happened."""

    at: float


PeerEvent: TypeAlias = (
    NodeRegistered
    | NodeBeat
    | LeaseAnswered
    | LandmarkTimed
    | NodeDraining
    | NodeLost
    | TargetRegistered
    | TargetBeat
    | DraftersAsked
    | TargetDraining
    | TargetLost
    | ReceiptsKept
)
Event: TypeAlias = PeerEvent | Disenrolled | LeasesRead | Tick
