"""coordinator → node."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import (
    CommonMessage,
    ControlMessage,
    Lease,
    LeaseRevoked,
    Name,
    Peer,
    Registered,
    Token,
    Url,
)

__all__ = ["CoordinatorToNode", "Landmark", "Landmarks", "LeaseOffer", "LeaseRenewed", "ProbeRequest"]


class LeaseOffer(ControlMessage, frozen=True):
    """Please dial the target named in the lease. The node checks the coordinator's signature before it does."""

    jti: Name
    lease: Lease


class LeaseRenewed(ControlMessage, frozen=True):
    jti: Name
    lease: Lease


class ProbeRequest(ControlMessage, frozen=True):
    """Draft `count` tokens greedily after `prefix`; the right answer is known."""

    probe: Name
    model: Name
    prefix: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_PROBE_TOKENS)]
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_DRAFT_TOKENS)]


class Landmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A target and one of its addresses, as a lease would name them."""

    target: Peer
    address: Url


class Landmarks(ControlMessage, frozen=True):
    """Please time how long a TCP connection to each of these targets takes; nothing is sent on it.

    Of the feature of that name.
    """

    landmarks: Annotated[tuple[Landmark, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_LANDMARKS)]


CoordinatorToNode: TypeAlias = (
    CommonMessage | Registered | LeaseOffer | LeaseRenewed | LeaseRevoked | ProbeRequest | Landmarks
)
