"""`/api/state`: everything the coordinator knows about who is here, for people and dashboards. No secret, no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from coordinator.acceptance import Acceptance, Positions
from coordinator.coordinates import Accuracy
from coordinator.executor import Executor
from coordinator.records import LeaseRecord, NodeRecord, Tally, TargetRecord

__all__ = ["snapshot"]


def snapshot(executor: Executor, acceptance: Sequence[Acceptance]) -> dict[str, Any]:
    """`acceptance` is the ledger's."""
    now, registry = executor.clock.monotonic(), executor.registry
    return {
        "name": executor.settings.name,
        "coordinator": executor.identity.peer_id,
        "answers": len(executor.answers),
        "nodes": [_node(executor, node, now) for node in registry.nodes.values()],
        "targets": [_target(executor, target, now) for target in registry.targets.values()],
        "leases": [_lease(lease, now) for lease in registry.leases.values()],
        "totals": {peer: _tally(tally) for peer, tally in registry.tallies.items()},
        "acceptance": [_acceptance(figures) for figures in acceptance],
        "rtt_predictions": _accuracy(registry.accuracy),
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
        "hung": executor.watch.hung(target.link),  # it owed tokens, fell silent, and has said nothing since
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
        "jitter": peer.jitter,
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


def _acceptance(figures: Acceptance) -> dict[str, Any]:
    pair = figures.pair
    return {
        "target": {"name": pair.target, "digest": pair.target_digest},
        "drafter": {"name": pair.drafter, "digest": pair.drafter_digest},
        **_positions(figures.total),
        "recent": _positions(figures.recent),
        "before": _positions(figures.before),
        "by_depth": [{"depth": depth, **_positions(at)} for depth, at in sorted(figures.by_depth.items())],
        "misfit": figures.misfit,  # why the drafter may no longer fit, in words; null where nothing speaks for it
    }


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    """Round trips between nodes and targets that were predicted, then measured for the first time."""
    median = accuracy.median_error
    return {"checked": accuracy.checked, "median_relative_error": None if median is None else round(median, 4)}


def _positions(positions: Positions) -> dict[str, Any]:
    alpha = positions.alpha
    return {
        "reached": positions.reached,
        "right": positions.right,
        "alpha": None if alpha is None else round(alpha, 4),
    }


def _tally(tally: Tally) -> dict[str, int]:
    return {
        "drafted": tally.drafted,
        "verified": tally.verified,
        "accepted": tally.accepted,
        "won": tally.won,
    }
