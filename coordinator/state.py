"""`/api/state`: everything the coordinator knows about who is here, for people and dashboards. No secret, no prompt."""

from __future__ import annotations

from typing import Any

import msgspec

from coordinator.executor import Executor
from coordinator.records import LeaseRecord, NodeRecord, Tally, TargetRecord

__all__ = ["snapshot"]


def snapshot(executor: Executor) -> dict[str, Any]:
    now, registry = executor.clock.monotonic(), executor.registry
    return {
        "name": executor.settings.name,
        "coordinator": executor.identity.peer_id,
        "answers": len(executor.answers),
        "nodes": [_node(executor, node, now) for node in registry.nodes.values()],
        "targets": [_target(executor, target, now) for target in registry.targets.values()],
        "leases": [_lease(lease, now) for lease in registry.leases.values()],
        "totals": {peer: _tally(tally) for peer, tally in registry.tallies.items()},
    }


def _node(executor: Executor, node: NodeRecord, now: float) -> dict[str, Any]:
    registry = executor.registry
    return {
        **_peer(node, now),
        "models": msgspec.to_builtins(node.models),
        "leases": registry.leased(node.peer),
        "unmatched": registry.unmatched(node),  # why no target can use it, in words; null where one can
        "totals": _tally(registry.tallies.get(node.peer, Tally())),
    }


def _target(executor: Executor, target: TargetRecord, now: float) -> dict[str, Any]:
    return {
        **_peer(target, now),
        "model": msgspec.to_builtins(target.model),
        "addresses": target.addresses,
        "queue": target.queue,
        "queued": target.queued,
        "drafters": target.drafters,
        "answers": executor.answers.load(target.link),
    }


def _peer(peer: NodeRecord | TargetRecord, now: float) -> dict[str, Any]:
    return {
        "id": peer.peer,
        "name": peer.name,
        "pool": peer.pool,
        "owner": peer.owner,
        "site": peer.site,
        "state": peer.state.value,
        "slots": peer.slots,
        "sessions": peer.sessions,
        "rtt": peer.rtt,
        "connected_seconds": round(now - peer.since, 3),
        "silent_seconds": round(now - peer.seen, 3),
    }


def _lease(lease: LeaseRecord, now: float) -> dict[str, Any]:
    return {
        "jti": lease.jti,
        "node": lease.node,
        "target": lease.target,
        "model": lease.model.name,
        "state": "held" if lease.held else "offered",
        "expires_in": round(lease.expires_at - now, 3),
    }


def _tally(tally: Tally) -> dict[str, int]:
    return {
        "drafted": tally.drafted,
        "verified": tally.verified,
        "accepted": tally.accepted,
        "won": tally.won,
    }
