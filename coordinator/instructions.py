"""What the registry asks for. `executor.py` carries it out; what comes of it returns as events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from coordinator.events import LinkId
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import Landmarks
from wanspec_p2p.protocol.coordinator_to_target import Drafters
from wanspec_p2p.types import PeerId

__all__ = ["Close", "Instruction", "LeaseTerms", "OfferLease", "RecordLease", "RenewLease", "Send", "TargetGone"]


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What a lease permits; the executor adds the times and the signature.

    `model` and `digest` are the drafter's; `target_model` and `target_digest`, which the signed lease does not name,
    are for the ledger.
    """

    jti: str
    node: PeerId
    target: PeerId
    owner: str
    site: str
    pool: str
    model: str
    digest: str
    tokenizer: str
    addresses: tuple[str, ...]
    certificate: str | None
    target_model: str
    target_digest: str


@dataclass(frozen=True, slots=True)
class Send:
    link: LinkId
    message: Registered | LeaseRevoked | Landmarks | Drafters


@dataclass(frozen=True, slots=True)
class OfferLease:
    link: LinkId
    terms: LeaseTerms
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordLease:
    """The node has accepted, or is to have a renewal: the ledger keeps what the lease is for, and when it ends."""

    terms: LeaseTerms
    seconds: float


@dataclass(frozen=True, slots=True)
class RenewLease:
    link: LinkId
    terms: LeaseTerms
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    link: LinkId
    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class TargetGone:
    """Answers this link owed will not come from it any more."""

    link: LinkId
    reason: str


Instruction: TypeAlias = Send | OfferLease | RecordLease | RenewLease | Close | TargetGone
