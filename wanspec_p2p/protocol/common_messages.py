"""What every link speaks, in both directions: the handshake, liveness, and the end. JSON text frames.

Field types carry their own bounds, so a message that decodes is a message that is within its limits.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.security.succession import Succession
from wanspec_p2p.types import PeerId, Role

__all__ = [
    "ENROLMENT",
    "LANDMARKS",
    "SUCCESSION",
    "Challenge",
    "CommonMessage",
    "ControlMessage",
    "DraftLinkMessage",
    "Enrol",
    "Goodbye",
    "Hello",
    "LeaseRevoked",
    "Ping",
    "Pong",
    "Proof",
    "Registered",
    "Welcome",
]

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_NAME)]
Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_REASON)]
Digest: TypeAlias = Annotated[str, msgspec.Meta(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
Token: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_VOCABULARY)]
Lease: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_LEASE)]
Nonce: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Features: TypeAlias = Annotated[tuple[Name, ...], msgspec.Meta(max_length=limits.MAX_FEATURES)]
Url: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_URL, pattern=r"^wss?://[!-~]+\Z")]
Version: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Peer: TypeAlias = Annotated[PeerId, msgspec.Meta(min_length=32, max_length=32, pattern="^[a-z2-7]{32}$")]


SUCCESSION = "succession"
"""Feature: a coordinator whose key has changed may say so in its Challenge."""
LANDMARKS = "landmarks"
"""Feature: a coordinator may ask a node how far targets are (`Landmarks`, `Timed`)."""
ENROLMENT = "enrolment"
"""Feature: a node or target may ask whether it will be let in, before it can register (`Enrol`)."""


class ControlMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of what travels as JSON text; `type` is the class name in lower case."""


class DraftLinkMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what travels as MessagePack arrays on draft links; the first element is an integer tag."""


class Hello(ControlMessage, frozen=True):
    """First message of the side that dialled."""

    version: Version
    role: Role
    key: PublicKey
    nonce: Nonce
    features: Features = ()
    software: Annotated[str, msgspec.Meta(max_length=limits.MAX_NAME)] = ""


class Challenge(ControlMessage, frozen=True, omit_defaults=True):
    """The listener's half, signed, so that the dialler knows whom it reached before it says anything of value.

    `succession` is of the feature of that name: it leads from keys the listener had before to `key`.
    """

    version: Version
    role: Role
    key: PublicKey
    nonce: Nonce
    features: Features
    signature: Signature
    succession: Annotated[tuple[Succession, ...], msgspec.Meta(max_length=limits.MAX_SUCCESSIONS)] = ()


class Proof(ControlMessage, frozen=True):
    """The dialler's signature over the whole transcript."""

    signature: Signature


class Welcome(ControlMessage, frozen=True):
    """The handshake is complete; `features` are those both sides named."""

    features: Features = ()


class Ping(ControlMessage, frozen=True):
    id: Count
    at: Seconds  # the sender's monotonic clock; comes back untouched


class Pong(ControlMessage, frozen=True):
    id: Count
    at: Seconds


class Goodbye(ControlMessage, frozen=True):
    """An orderly end, said before the close frame; `retry_after` > 0 asks the peer to come back then."""

    reason: Reason
    retry_after: Seconds = 0.0


class Enrol(ControlMessage, frozen=True):
    """node or target → coordinator, in the place of registering: will you have me? I come back when my model is ready.

    Who is let in is enrolled by it, and answered with Registered and the end of the link, without being registered.
    """

    name: Name
    owner: Name = "unknown"
    site: Name = "unknown"
    join_secret: Annotated[str, msgspec.Meta(max_length=limits.MAX_SECRET)] = ""


class Registered(ControlMessage, frozen=True):
    """coordinator → node or target: you are known, and this is how often to say you are alive."""

    pool: Name
    heartbeat: Seconds


class LeaseRevoked(ControlMessage, frozen=True):
    """coordinator → node and target: the lease with this `jti` is void from now on."""

    jti: Name
    reason: Reason


CommonMessage: TypeAlias = Hello | Challenge | Proof | Welcome | Ping | Pong | Goodbye
