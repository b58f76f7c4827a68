"""Leases: the coordinator's signed, expiring permission for one node to draft for one target.

A lease is a JWT (RFC 7519) signed with EdDSA (RFC 8037) by the coordinator's identity key, so that a target can check
one while the coordinator is away. The algorithm is pinned, and time comes from our `Clock`, not from the library.
"""

from __future__ import annotations

from typing import Annotated, Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.security.identity import Identity, peer_id
from wanspec_p2p.types import PeerId

__all__ = ["LEEWAY_SECONDS", "MAX_LEASE_CHARACTERS", "LeaseClaims", "check", "issue"]

LEEWAY_SECONDS = 30.0
"""How far two clocks may disagree."""
MAX_LEASE_CHARACTERS = 16_384
"""Claims of any characters at their longest fit: a node hangs up on a lease it cannot read, and loses all it has."""
_TYPE = "wanspec-lease+jwt"  # RFC 8725 §3.11: a token of another kind signed by the same key is not a lease
_ALGORITHM = "EdDSA"

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Peer = Annotated[PeerId, msgspec.Meta(pattern=r"^[a-z2-7]{32}\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^wss?://[!-~]+\Z")]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class LeaseClaims(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"node": "sub", "target": "aud", "issued": "iat", "expires": "exp"},
):
    """What a lease says. `model`, `digest` and `tokenizer` are those of the drafter it was matched for."""

    jti: _Text  # unique; receipts and revocations name it
    node: _Peer
    target: _Peer
    owner: _Text  # of the node
    site: _Text
    pool: _Text
    model: _Text
    digest: _Digest
    tokenizer: _Digest
    addresses: Annotated[tuple[_Address, ...], msgspec.Meta(min_length=1, max_length=8)]  # of the target
    certificate: _Digest | None  # the target's, SHA-256 of the DER; None on loopback
    issued: _Time  # seconds since the Unix epoch
    expires: _Time


def issue(identity: Identity, claims: LeaseClaims) -> str:
    """Sign a lease; `identity` is the coordinator's."""
    payload: dict[str, Any] = msgspec.to_builtins(claims)
    payload["iss"] = identity.peer_id
    # Not by `jwt.encode`, which writes each character beyond ASCII as up to twelve.
    written = msgspec.json.encode(payload)
    return jwt.PyJWS().encode(written, identity.private_key, algorithm=_ALGORITHM, headers={"typ": _TYPE})


def check(
    lease: str,
    *,
    coordinator: bytes,
    clock: Clock,
    node: PeerId | None = None,
    target: PeerId | None = None,
    leeway: float = LEEWAY_SECONDS,
) -> LeaseClaims:
    """What the lease says, if it is one and holds now.

    Args:
        coordinator: the public key of the coordinator we are enrolled with.
        node, target: whom it must be for; None accepts any (a node that was offered one checks only itself).
        leeway: seconds by which clocks may differ, or by which an attached lease is honoured longer.

    Raises:
        RemoteProtocolError: LEASE_REFUSED, with the reason in words.
    """
    claims = _read(lease, coordinator)
    now = clock.wall()
    if now >= claims.expires + leeway:
        raise _refused("the lease has expired: ask the coordinator for another, and see that the clocks agree")
    if now < claims.issued - leeway:
        raise _refused("the lease is not valid yet: the clocks of coordinator and target disagree")
    if node is not None and claims.node != node:
        raise _refused("the lease is for another node")
    if target is not None and claims.target != target:
        raise _refused("the lease is for another target")
    return claims


def _read(lease: str, coordinator: bytes) -> LeaseClaims:
    if len(lease) > MAX_LEASE_CHARACTERS:
        raise _refused(f"the lease is longer than {MAX_LEASE_CHARACTERS} characters")
    try:
        token = jwt.decode_complete(
            lease,
            Ed25519PublicKey.from_public_bytes(coordinator),
            algorithms=[_ALGORITHM],
            options={f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},  # type: ignore[arg-type]  # a TypedDict cannot be built by comprehension
        )
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
        raise _refused("the lease is not signed by this coordinator") from error
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _refused("the lease is malformed") from error
    payload = token["payload"]
    if token["header"].get("typ") != _TYPE or payload.pop("iss", None) != peer_id(coordinator):
        raise _refused("the token is not a lease of this coordinator")
    try:
        return msgspec.convert(payload, LeaseClaims)
    except msgspec.ValidationError as error:
        raise _refused("the lease lacks a claim, or one of its claims is malformed") from error


def _refused(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, CloseCode.LEASE_REFUSED)
