"""Which targets a node is asked to time, and when. Pure, and part of the registry: it changes only through `handle`.

An idle node has talked to the coordinator and to nobody else: how far it is from there is known, in which direction is
not. A few round trips to targets say that. Every node times others, chosen by hashing, so that the load spreads; with
each round they are new ones, so that in time a node knows many.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping

from coordinator.instructions import Instruction, Send
from coordinator.matching import fitting_model
from coordinator.records import NodeRecord, PeerState, TargetRecord
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks
from wanspec_p2p.protocol.limits import LANDMARK_SECONDS, MAX_LANDMARKS
from wanspec_p2p.types import PeerId

__all__ = ["LandmarkBook"]

ROUND_SECONDS = 600.0
"""After which a node is given other landmarks."""


class LandmarkBook:
    """Args:
    targets: the registry's own records; read, never written.
    """

    def __init__(self, targets: Mapping[PeerId, TargetRecord]) -> None:
        self._targets = targets
        self._version = 0

    def changed(self) -> None:
        """A target has come or gone."""
        self._version += 1

    def ask(self, at: float, node: NodeRecord) -> list[Instruction]:
        """Called with each heartbeat: those are spread over time, so that what is asked with them is as well."""
        survey = node.survey
        if survey is None or node.state is not PeerState.ACTIVE or at < survey.asked_at + LANDMARK_SECONDS:
            return []
        over = at >= survey.began_at + ROUND_SECONDS
        if not over and survey.version == self._version:
            return []
        survey.version = self._version
        if over:
            survey.round, survey.began_at, survey.links = survey.round + 1, at, {}
        chosen = self._chosen(node, survey.round)
        new = [target for target in chosen if survey.links.get(target.peer) != target.link]
        survey.links = {target.peer: target.link for target in chosen}
        if not new:
            return []
        survey.asked_at, survey.open = at, {target.peer for target in new}
        return [Send(node.link, Landmarks(tuple(Landmark(target.peer, target.addresses[0]) for target in new)))]

    def answered(self, node: NodeRecord, target: PeerId) -> bool:
        """Whether the node was asked for the way to this target, and has not told it before."""
        if node.survey is None or target not in node.survey.open:
            return False
        node.survey.open.discard(target)
        return target in self._targets

    def _chosen(self, node: NodeRecord, number: int) -> list[TargetRecord]:
        """Only targets that a lease could name: a node learns no other addresses.

        Rendezvous hashing: one target more or less changes the choice of few nodes, and of those by one.
        """
        usable = (
            target
            for target in self._targets.values()
            if target.pool == node.pool
            and target.state is PeerState.ACTIVE
            and fitting_model(node.models, target.model) is not None
        )
        return heapq.nsmallest(MAX_LANDMARKS, usable, key=lambda target: _draw(node.peer, target.peer, number))


def _draw(node: PeerId, target: PeerId, number: int) -> bytes:
    return hashlib.blake2b(f"{node} {target} {number}".encode(), digest_size=8).digest()
