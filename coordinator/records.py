"""What the registry remembers of each peer, lease and open want. Written by `registry` and `lease_book` alone."""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass, field

from coordinator.acceptance import Voices
from coordinator.events import LinkId
from coordinator.matching import Match
from wanspec_p2p.protocol.coordinator_to_target import GrantedDrafter
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel
from wanspec_p2p.protocol.target_to_coordinator import ServedModel
from wanspec_p2p.types import PeerId

__all__ = ["AwaitedLease", "LeaseRecord", "NodeRecord", "PeerState", "Survey", "Tally", "TargetRecord", "WantRecord"]

LOUDEST_OF_NODE = 1000
"""Positions that one target's word of a node counts for; those of some answers."""


class PeerState(enum.Enum):
    UNKNOWN = "unknown"  # this link has not registered, or is gone
    ACTIVE = "active"
    SILENT = "silent"  # heartbeats are overdue: nothing new is given to it
    DRAINING = "draining"  # it finishes what it has and leaves


@dataclass(slots=True)
class Tally:
    """Sums over a node's receipts, in tokens; from `voices` on, what was said since the coordinator started.

    `voices` has what each target said of the positions it drafted for, `fruitless` the targets for which nothing of it
    came in time to be verified, and when they said so.
    """

    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    won: int = 0
    voices: Voices = field(default_factory=lambda: Voices(LOUDEST_OF_NODE), compare=False)
    fruitless: dict[PeerId, float] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """What a node was asked to time. Written by `landmarks` alone."""

    round: int = 0
    began_at: float = -math.inf  # the round
    asked_at: float = -math.inf  # the last message
    version: int = -1  # of the targets that were chosen from
    links: dict[PeerId, LinkId] = field(default_factory=dict)  # this round's targets; one that came again has another
    open: set[PeerId] = field(default_factory=set)  # not answered yet


@dataclass(slots=True)
class NodeRecord:
    link: LinkId
    peer: PeerId
    pool: str
    name: str
    owner: str
    site: str
    models: tuple[DrafterModel, ...]
    slots: int
    since: float
    seen: float
    state: PeerState = PeerState.ACTIVE
    sessions: int = 0
    rtt: float | None = None  # to the coordinator, in seconds: as we measure it, or else as the peer says
    jitter: float | None = None
    survey: Survey | None = None  # None: its link lacks the feature


@dataclass(slots=True)
class TargetRecord:
    link: LinkId
    peer: PeerId
    pool: str
    name: str
    owner: str
    site: str
    model: ServedModel
    addresses: tuple[str, ...]
    certificate: str | None
    slots: int
    queue: int
    since: float
    seen: float
    state: PeerState = PeerState.ACTIVE
    sessions: int = 0
    queued: int = 0
    drafters: int = 0
    rtt: float | None = None  # as of a node
    jitter: float | None = None
    asked: deque[float] = field(default_factory=deque)  # when it last asked for drafters, the latest last


@dataclass(slots=True)
class LeaseRecord:
    """One node's permission for one target. Occupies one of the node's slots from the offer to the end."""

    jti: str
    node: PeerId
    target: PeerId
    model: DrafterModel
    want: str
    renew_at: float
    expires_at: float
    offered_at: float = -math.inf
    held: bool = False  # the node has accepted
    listed: bool = False  # a heartbeat of the node has named it


@dataclass(frozen=True, slots=True)
class AwaitedLease:
    """A lease that was given before the coordinator was started, until its node and its target have both come back."""

    jti: str
    node: PeerId
    target: PeerId
    digest: str  # of the drafter
    expires_at: float


@dataclass(slots=True)
class WantRecord:
    """A target's open question for drafters."""

    id: str
    target: PeerId
    count: int
    deadline: float
    candidates: list[Match]
    refusal: str
    outstanding: set[str] = field(default_factory=set)
    granted: list[GrantedDrafter] = field(default_factory=list)
