"""Keys, names and chance of a simulation, all from its seed: the shipped handshake and leases are real, and the same
each time."""

from __future__ import annotations

import hashlib
import random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wanspec_p2p.clock import Clock
from wanspec_p2p.models.base import ModelInfo
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import LeaseClaims
from wanspec_p2p.types import PeerId

__all__ = ["chance", "identity", "lease_claims"]

ADDRESS = "ws://127.0.0.1:1/wanspec/draft"
"""Never dialled: the links are in memory. A node takes no lease without an address."""
LEASE_SECONDS = 10 * 365 * 24 * 3600


def chance(seed: int, *names: str) -> random.Random:
    """A source of randomness for one purpose, so that what one machine draws moves nothing of another's."""
    return random.Random(f"{seed} {' '.join(names)}")


def identity(seed: int, name: str) -> Identity:
    key = hashlib.sha256(f"wanspec simulated key {seed} {name}".encode()).digest()
    return Identity(Ed25519PrivateKey.from_private_bytes(key))


def lease_claims(
    clock: Clock, *, name: str, node: PeerId, target: PeerId, owner: str, site: str, model: ModelInfo
) -> LeaseClaims:
    """For as long as any simulation lasts."""
    now = int(clock.wall())
    return LeaseClaims(
        jti=f"lease of {name}",
        node=node,
        target=target,
        owner=owner,
        site=site,
        pool="default",
        model=model.name,
        digest=model.digest,
        tokenizer=model.tokenizer,
        addresses=(ADDRESS,),
        certificate=None,
        issued=now,
        expires=now + LEASE_SECONDS,
    )
