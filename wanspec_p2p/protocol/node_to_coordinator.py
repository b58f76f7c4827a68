"""node → coordinator."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import (
    CommonMessage,
    ControlMessage,
    Count,
    Digest,
    Enrol,
    Name,
    Peer,
    Reason,
    Seconds,
    Token,
)

__all__ = ["Drain", "DrafterModel", "Heartbeat", "LeaseAnswer", "NodeMessage", "ProbeResult", "RegisterNode", "Timed"]


class DrafterModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model a node can draft with."""

    name: Name
    digest: Digest  # of the weights; of the algorithm's name and parameters where there are none
    tokenizer: Digest
    vocab_size: Annotated[int, msgspec.Meta(ge=2, le=limits.MAX_VOCABULARY)]
    context: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_PROMPT_TOKENS)]
    tokens_per_second: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class RegisterNode(ControlMessage, frozen=True):
    """Sent after every handshake. `join_secret` only on first contact; afterwards the key is known."""

    name: Name  # what people call it; never used to decide anything
    models: Annotated[tuple[DrafterModel, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_MODELS)]
    slots: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_NODE_SLOTS)]  # sessions it will draft for at once
    owner: Name = "unknown"
    site: Name = "unknown"
    join_secret: Annotated[str, msgspec.Meta(max_length=limits.MAX_SECRET)] = ""


class Heartbeat(ControlMessage, frozen=True):
    sessions: Count
    leases: Annotated[tuple[Name, ...], msgspec.Meta(max_length=limits.MAX_NODE_SLOTS)] = ()
    rtt: Seconds | None = None  # node ↔ coordinator, as the node sees it


class LeaseAnswer(ControlMessage, frozen=True):
    jti: Name
    accepted: bool
    reason: Reason = ""


class ProbeResult(ControlMessage, frozen=True):
    probe: Name
    tokens: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_DRAFT_TOKENS)]
    seconds: Seconds


class Timed(ControlMessage, frozen=True):
    """The way to one of the `Landmarks`: the shortest of a few round trips. Of those nobody reached nothing is said."""

    target: Peer
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=limits.MAX_TIMED_SECONDS)]


class Drain(ControlMessage, frozen=True):
    """I take nothing new and leave when what I have is done."""

    reason: Reason = ""


NodeMessage: TypeAlias = CommonMessage | Enrol | RegisterNode | Heartbeat | LeaseAnswer | ProbeResult | Timed | Drain
