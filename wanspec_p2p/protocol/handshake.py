"""The handshake: both ends prove their keys to each other before anything of value is said. Pure; knows no network.

    dialler                                                      listener
    Hello(version, role, key, nonce, features)               ─▶
                  ◀─  Challenge(version, role, key, nonce, features, signature)
    Proof(signature)                                         ─▶
                                               ◀─  Welcome(features both named)

Each side signs the transcript: every field of Hello and Challenge, the negotiated features, and the TLS channel
binding as *that* side sees it (RFC 5929), so that somebody in between ends up with a signature that fits no
connection but his own. The two signatures start with different words: neither can be sent back as the other. Fresh
nonces on both sides make a recorded frame worthless.

A coordinator whose key has changed adds, for diallers that name the feature, the statements in which its earlier keys
named the next (security/succession.py): a dialler that pinned one of them accepts the key they lead to, and says so.

`TRANSITIONS` is the whole of what may happen, in the manner of h11; whatever is not in it is an error of the side
that caused it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from wanspec_p2p.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import version_mismatch
from wanspec_p2p.protocol.common_messages import (
    SUCCESSION,
    Challenge,
    ControlMessage,
    DraftLinkMessage,
    Hello,
    Proof,
    Welcome,
)
from wanspec_p2p.security.identity import Identity, peer_id, verify
from wanspec_p2p.security.succession import Succession, follow
from wanspec_p2p.types import PeerId, Role

__all__ = [
    "TRANSITIONS",
    "Begin",
    "Complete",
    "Dialler",
    "Event",
    "Handshake",
    "Instruction",
    "Listener",
    "Send",
    "State",
]


class State(enum.Enum):
    DIALLER_IDLE = enum.auto()
    DIALLER_AWAITS_CHALLENGE = enum.auto()
    DIALLER_AWAITS_WELCOME = enum.auto()
    LISTENER_AWAITS_HELLO = enum.auto()
    LISTENER_AWAITS_PROOF = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class Begin:
    """Ours: the transport is open. Only the dialler speaks first."""


Event: TypeAlias = Begin | ControlMessage | DraftLinkMessage


@dataclass(frozen=True, slots=True)
class Send:
    message: ControlMessage


@dataclass(frozen=True, slots=True)
class Complete:
    """The peer is who it says; `features` are those both sides named, in the dialler's order."""

    peer: PeerId
    public_key: bytes
    role: Role
    features: tuple[str, ...]
    software: str  # what a dialler calls itself; a listener does not say


Instruction: TypeAlias = Send | Complete


class Handshake:
    """What both sides share: the state, and the one door through which it changes."""

    state: State

    def handle(self, event: Event) -> list[Instruction]:
        """Advance by one event.

        Raises:
            RemoteProtocolError: the peer is not who it must be, or spoke out of turn. The handshake has failed.
            LocalProtocolError: `Begin` out of turn.
        """
        step = TRANSITIONS[self.state].get(type(event))
        if step is None:
            raise self._out_of_turn(event)
        handler, following = step
        try:
            instructions = handler(self, event)
        except RemoteProtocolError:
            self.state = State.FAILED
            raise
        self.state = following
        return instructions

    def _out_of_turn(self, event: Event) -> LocalProtocolError | RemoteProtocolError:
        if isinstance(event, Begin):
            return LocalProtocolError(f"the handshake cannot begin in state {self.state.name}")
        self.state = State.FAILED
        return RemoteProtocolError(f"{type(event).__name__} is out of turn in the handshake")


class Dialler(Handshake):
    """The side that dialled, in search of one peer.

    Args:
        expect: the peer we mean to reach. With the feature "succession" it may turn out to be the one its key was
            handed on to.
        nonce: 32 fresh random bytes.
        channel_binding: of the transport, as this side sees it.
    """

    def __init__(
        self,
        identity: Identity,
        role: Role,
        *,
        expect: PeerId,
        nonce: bytes,
        channel_binding: bytes,
        features: Iterable[str] = (),
        software: str = "",
    ) -> None:
        self.state = State.DIALLER_IDLE
        self._identity = identity
        self._expect = expect
        self._channel_binding = channel_binding
        self._hello = Hello(
            version=limits.PROTOCOL_VERSION,
            role=role,
            key=identity.public_key,
            nonce=nonce,
            features=tuple(features),
            software=software,
        )
        self._reached: Complete | None = None

    def _begin(self, _: Begin) -> list[Instruction]:
        return [Send(self._hello)]

    def _challenged(self, challenge: Challenge) -> list[Instruction]:
        hello = self._hello
        _check_counterpart(ours=hello, theirs=challenge)
        if challenge.succession and SUCCESSION not in hello.features:
            raise _failed("Challenge has a succession that was not asked for")
        if not self._expected(challenge):
            raise _failed("another peer than expected answers at this address: its key is not the one we were given")
        transcript = _transcript(hello, challenge, self._channel_binding)
        _verify(challenge.key, challenge.signature, _LISTENER_SIGNS + transcript)
        features = _negotiated(hello, challenge)
        self._reached = Complete(peer_id(challenge.key), challenge.key, challenge.role, features, software="")
        return [Send(Proof(signature=self._identity.sign(_DIALLER_SIGNS + transcript + challenge.signature)))]

    def _expected(self, challenge: Challenge) -> bool:
        if peer_id(challenge.key) == self._expect:
            return True
        return bool(challenge.succession) and follow(challenge.succession, self._expect) == challenge.key

    def _welcomed(self, welcome: Welcome) -> list[Instruction]:
        assert self._reached is not None  # TRANSITIONS: only after _challenged
        if welcome.features != self._reached.features:
            raise _failed("Welcome names other features than both sides offered")
        return [self._reached]


class Listener(Handshake):
    """The side that was dialled.

    Args:
        roles: of the peers that are admitted here.
        nonce: 32 fresh random bytes.
        channel_binding: of the transport, as this side sees it.
        succession: from the keys we had before to ours.
    """

    def __init__(
        self,
        identity: Identity,
        role: Role,
        *,
        roles: frozenset[Role],
        nonce: bytes,
        channel_binding: bytes,
        features: Iterable[str] = (),
        succession: tuple[Succession, ...] = (),
    ) -> None:
        self.state = State.LISTENER_AWAITS_HELLO
        self._succession = succession
        self._identity = identity
        self._roles = roles
        self._channel_binding = channel_binding
        self._challenge = Challenge(
            version=limits.PROTOCOL_VERSION,
            role=role,
            key=identity.public_key,
            nonce=nonce,
            features=tuple(features),
            signature=b"",  # made when the Hello has come
        )
        self._claimed: Complete | None = None
        self._proof_signs = b""

    def _greeted(self, hello: Hello) -> list[Instruction]:
        challenge = self._challenge
        if SUCCESSION in _negotiated(hello, challenge):
            challenge = msgspec.structs.replace(challenge, succession=self._succession)
        _check_counterpart(ours=challenge, theirs=hello)
        if hello.role not in self._roles:
            raise _failed(f"a {hello.role} is not admitted here")
        transcript = _transcript(hello, challenge, self._channel_binding)
        signature = self._identity.sign(_LISTENER_SIGNS + transcript)
        self._proof_signs = _DIALLER_SIGNS + transcript + signature
        features = _negotiated(hello, challenge)
        self._claimed = Complete(peer_id(hello.key), hello.key, hello.role, features, hello.software)
        return [Send(msgspec.structs.replace(challenge, signature=signature))]

    def _proved(self, proof: Proof) -> list[Instruction]:
        assert self._claimed is not None  # TRANSITIONS: only after _greeted
        _verify(self._claimed.public_key, proof.signature, self._proof_signs)
        return [Send(Welcome(features=self._claimed.features)), self._claimed]


Handler: TypeAlias = Callable[[Any, Any], list[Instruction]]

TRANSITIONS: Mapping[State, Mapping[type, tuple[Handler, State]]] = {
    State.DIALLER_IDLE: {Begin: (Dialler._begin, State.DIALLER_AWAITS_CHALLENGE)},
    State.DIALLER_AWAITS_CHALLENGE: {Challenge: (Dialler._challenged, State.DIALLER_AWAITS_WELCOME)},
    State.DIALLER_AWAITS_WELCOME: {Welcome: (Dialler._welcomed, State.COMPLETE)},
    State.LISTENER_AWAITS_HELLO: {Hello: (Listener._greeted, State.LISTENER_AWAITS_PROOF)},
    State.LISTENER_AWAITS_PROOF: {Proof: (Listener._proved, State.COMPLETE)},
    State.COMPLETE: {},
    State.FAILED: {},
}
"""(state, event) → (handler, next state). A handler that refuses leads to FAILED."""


_LISTENER_SIGNS = b"wanspec handshake: listener signs\0"
_DIALLER_SIGNS = b"wanspec handshake: dialler signs\0"


def _transcript(hello: Hello, challenge: Challenge, channel_binding: bytes) -> bytes:
    """BLAKE2b-256 of every field, each with its length in front, so that no two transcripts share an encoding."""
    digest = hashlib.blake2b(digest_size=32, person=b"wanspec.v1")
    for side in (hello, challenge):
        _absorb(digest, side.version.to_bytes(2, "big"))
        _absorb(digest, side.role.encode())
        _absorb(digest, side.key)
        _absorb(digest, side.nonce)
        _absorb_names(digest, side.features)
    _absorb(digest, hello.software.encode())
    _absorb_names(digest, _negotiated(hello, challenge))
    _absorb(digest, channel_binding)
    if challenge.succession:  # at the end: peers of releases without it sign the same transcript as ever
        digest.update(len(challenge.succession).to_bytes(4, "big"))
        for each in challenge.succession:
            _absorb(digest, each.signed)
            _absorb(digest, each.signature)
    return digest.digest()


def _absorb(digest: hashlib.blake2b, field: bytes) -> None:
    digest.update(len(field).to_bytes(4, "big"))
    digest.update(field)


def _absorb_names(digest: hashlib.blake2b, names: tuple[str, ...]) -> None:
    digest.update(len(names).to_bytes(4, "big"))
    for name in names:
        _absorb(digest, name.encode())


def _negotiated(hello: Hello, challenge: Challenge) -> tuple[str, ...]:
    offered = frozenset(challenge.features)
    return tuple(feature for feature in hello.features if feature in offered)


def _check_counterpart(*, ours: Hello | Challenge, theirs: Hello | Challenge) -> None:
    if theirs.version != ours.version:
        raise version_mismatch(theirs.version)
    if theirs.key == ours.key:
        raise _failed("the peer presents our own key: two peers share one identity file, or our frames come back")
    if theirs.nonce == ours.nonce:
        raise _failed("the peer repeats our nonce")


def _verify(key: bytes, signature: bytes, message: bytes) -> None:
    try:
        verify(key, signature, message)
    except RemoteProtocolError as error:
        raise _failed(
            "the peer's signature does not fit this connection: it lacks the key, or a proxy in between presents a "
            "certificate that the listener was not told of"
        ) from error


def _failed(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, CloseCode.HANDSHAKE_FAILED)
