"""What every test of a node needs: keys, leases signed by a coordinator, and what a node says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from node.lease_checks import Held
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.models.base import ModelInfo
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import LeaseClaims, issue

__all__ = ["DIGEST", "TOKENIZER", "NodeFacts", "drafter_model"]

DIGEST = "d" * 64
TOKENIZER = "e" * 64


def drafter_model(info: ModelInfo) -> DrafterModel:
    return DrafterModel(
        name=info.name,
        digest=info.digest,
        tokenizer=info.tokenizer,
        vocab_size=info.vocab_size,
        context=info.context,
        tokens_per_second=100.0,
    )


@dataclass
class NodeFacts:
    """A coordinator, a target and a node with keys of their own, and a clock they share."""

    clock: ManualClock = field(default_factory=ManualClock)
    coordinator: Identity = field(default_factory=Identity.generate)
    target: Identity = field(default_factory=Identity.generate)
    node: Identity = field(default_factory=Identity.generate)
    model: DrafterModel = field(default_factory=lambda: DrafterModel("small", DIGEST, TOKENIZER, 256, 4096, 100.0))

    def registration(self) -> RegisterNode:
        return RegisterNode(name="lab-a", models=(self.model,), slots=2)

    def claims(self, jti: str = "lease-1", /, *, target: Identity | None = None, **changes: object) -> LeaseClaims:
        claims = LeaseClaims(
            jti=jti,
            node=self.node.peer_id,
            target=(target or self.target).peer_id,
            owner="lab",
            site="basement",
            pool="default",
            model=self.model.name,
            digest=self.model.digest,
            tokenizer=self.model.tokenizer,
            addresses=("ws://127.0.0.1:4711/wanspec/draft",),
            certificate=None,
            issued=int(self.clock.wall()),
            expires=int(self.clock.wall()) + 600,
        )
        return msgspec.structs.replace(claims, **changes)

    def lease(self, jti: str = "lease-1", /, *, target: Identity | None = None, **changes: object) -> Held:
        """A lease that is signed; `changes` are claims that differ."""
        claims = self.claims(jti, target=target, **changes)
        return Held(claims, issue(self.coordinator, claims), claims.addresses)
