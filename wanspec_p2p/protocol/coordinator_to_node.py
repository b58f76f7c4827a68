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
    Registered,
    Token,
)

__all__ = ["CoordinatorToNode", "LeaseOffer", "LeaseRenewed", "ProbeRequest"]


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


CoordinatorToNode: TypeAlias = CommonMessage | Registered | LeaseOffer | LeaseRenewed | LeaseRevoked | ProbeRequest
