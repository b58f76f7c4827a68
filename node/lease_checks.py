"""Which leases a node takes, beyond being signed for it: a model it has, and an address that is safe to dial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from wanspec_p2p.protocol.node_to_coordinator import DrafterModel
from wanspec_p2p.security.leases import LeaseClaims
from wanspec_p2p.security.tls import is_loopback

__all__ = ["Held", "dialable", "endpoint", "unfit"]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease we hold: what it says, and the signed text the target wants to see."""

    claims: LeaseClaims
    text: str


def unfit(claims: LeaseClaims, jti: str, models: Sequence[DrafterModel]) -> str | None:
    """Why a lease that is signed for this node cannot be used here; None when it can."""
    if claims.jti != jti:
        return "the lease has another number than its message"
    if not any((model.digest, model.tokenizer) == (claims.digest, claims.tokenizer) for model in models):
        return f"the lease is for the drafter {claims.model!r}, which this node does not have"
    if not dialable(claims):
        return "the lease names no address that may be dialled: wss:// with a certificate, or ws:// on loopback"
    return None


def dialable(claims: LeaseClaims) -> tuple[str, ...]:
    """The target's addresses a node may dial, in the coordinator's order."""
    return tuple(address for address in claims.addresses if _safe(address, claims.certificate))


def endpoint(address: str) -> tuple[str, int] | None:
    """Host and port of wss://, or of ws:// on loopback; None for any other address, which must not be dialled."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not (parts.scheme == "wss" or (parts.scheme == "ws" and is_loopback(host))):
        return None
    return host, port or (443 if parts.scheme == "wss" else 80)


def _safe(address: str, certificate: str | None) -> bool:
    return endpoint(address) is not None and (certificate is not None or urlsplit(address).scheme == "ws")
