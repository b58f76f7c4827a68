"""Which leases a node takes, beyond being signed for it: a model it has, and an address that is safe to dial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wanspec_p2p.links import draft_address
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel
from wanspec_p2p.security.leases import LeaseClaims

__all__ = ["Held", "dialable", "may_be_timed", "unfit"]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease we hold: what it says, the signed text the target wants to see, and which of its addresses we dial."""

    claims: LeaseClaims
    text: str
    addresses: tuple[str, ...]


def unfit(claims: LeaseClaims, jti: str, models: Sequence[DrafterModel], addresses: Sequence[str]) -> str | None:
    """Why a lease that is signed for this node cannot be used here; None when it can."""
    if claims.jti != jti:
        return "the lease has another number than its message"
    if not any((model.digest, model.tokenizer) == (claims.digest, claims.tokenizer) for model in models):
        return f"the lease is for the drafter {claims.model!r}, which this node does not have"
    if not addresses:
        return (
            "the lease names no address that may be dialled: wss:// with a certificate, "
            "or loopback where our coordinator is there too"
        )
    return None


def dialable(claims: LeaseClaims, *, loopback: bool) -> tuple[str, ...]:
    """The target's addresses a node may dial, in the coordinator's order.

    Args:
        loopback: our coordinator is on this machine, so a target may be as well. Otherwise what is on loopback here
            is no target, whatever it is.
    """
    return tuple(a for a in claims.addresses if _safe(a, loopback, certified=claims.certificate is not None))


def may_be_timed(landmark: Landmark, *, loopback: bool) -> bool:
    """Whether a lease could make us dial it."""
    return _safe(landmark.address, loopback, certified=True)


def _safe(address: str, loopback: bool, *, certified: bool) -> bool:
    place = draft_address.parse(address)
    return place is not None and (loopback or not place.loopback) and (certified or not place.secure)
