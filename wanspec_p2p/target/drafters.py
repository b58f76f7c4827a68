"""The drafters a target has: links that are attached and warm, and which of them draft for which session."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.leases import LEEWAY_SECONDS, LeaseClaims, check
from wanspec_p2p.speculation.instructions import OpenDraft, SendVerdict
from wanspec_p2p.target.draft_link import DraftLink
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import PeerId

__all__ = ["ORPHAN_SECONDS", "DrafterPool"]

ORPHAN_SECONDS = 900.0
"""How much longer an attached lease is honoured while the coordinator cannot be reached to renew it."""

log = structlog.get_logger(__name__)


class DrafterPool:
    """Args:
    me: this target's peer id: leases must name it.
    coordinator: the public key leases must be signed with.
    per_session: drafters each session gets, where there are so many.
    arrived, left: called when a link came or went, so that what is missing can be asked for.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        coordinator: bytes,
        per_session: int,
        clock: Clock,
        arrived: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self._me, self._coordinator, self._clock = me, coordinator, clock
        self._per_session, self._arrived, self._left = per_session, arrived, left
        self._links: dict[PeerId, DraftLink] = {}
        self._sessions: dict[SessionRunner, set[PeerId]] = {}
        self._revoked: set[str] = set()
        self._jtis: dict[PeerId, str] = {}
        self.coordinator_reachable = True

    @property
    def attached(self) -> list[PeerId]:
        return list(self._links)

    def link(self, node: PeerId) -> DraftLink | None:
        return self._links.get(node)

    def lease_of(self, node: PeerId) -> str:
        """The `jti` under which this node drafted last."""
        return self._jtis[node]

    async def serve(self, link: Link[TargetToNode, NodeToTarget]) -> None:
        """A node dialled and proved its identity: admit it by its lease and keep it until it goes."""
        draft_link = DraftLink(link, self._admit, self._clock)
        try:
            lease = await draft_link.attach()
        except RemoteProtocolError as error:
            log.warning("a node was not admitted", node=link.peer, reason=error.reason)
            await link.close(error.code, error.reason)
            return
        except (LinkClosed, PeerRefused):
            return
        self._jtis[link.peer] = lease.jti
        old = self._links.get(link.peer)
        self._links[link.peer] = draft_link
        if old is not None:
            old.end(CloseCode.REPLACED, "the node attached again")
        log.info("a node attached", node=link.peer, owner=lease.owner, site=lease.site, model=lease.model)
        for runner in self._sessions:
            self._supply(runner)
        self._arrived()
        try:
            await draft_link.serve()
        finally:
            if self._links.get(link.peer) is draft_link:
                del self._links[link.peer]
            for runner, nodes in self._sessions.items():
                if link.peer in nodes and link.peer not in self._links:
                    nodes.discard(link.peer)
                    self._supply(runner)
            self._left()

    def begin(self, runner: SessionRunner) -> None:
        """Give a session its drafters, now and as they come. It must have started."""
        self._sessions[runner] = set()
        self._supply(runner)

    def end(self, runner: SessionRunner) -> None:
        self._sessions.pop(runner, None)

    def revoke(self, jti: str, reason: str) -> None:
        self._revoked.add(jti)
        for link in list(self._links.values()):
            if link.lease is not None and link.lease.jti == jti:
                link.end(CloseCode.LEASE_REFUSED, reason or "the lease was revoked")

    def close_expired(self) -> None:
        """End links whose lease is over: renewed ones have shown a newer lease by now."""
        grace = LEEWAY_SECONDS if self.coordinator_reachable else ORPHAN_SECONDS
        now = self._clock.wall()
        for link in list(self._links.values()):
            if link.lease is not None and now >= link.lease.expires + grace:
                link.end(CloseCode.LEASE_REFUSED, "the lease has expired")

    def close(self) -> None:
        for link in self._links.values():
            link.end(CloseCode.GOING_AWAY, "the target stops")

    # What sessions say to their drafters: runner.DraftChannel

    def open(self, runner: SessionRunner, instruction: OpenDraft) -> None:
        if (link := self._links.get(instruction.drafter)) is not None:
            link.open(runner, instruction, self._per_session)

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None:
        if (link := self._links.get(instruction.drafter)) is not None:
            link.verdict(runner, instruction)

    def close_session(self, runner: SessionRunner, drafter: PeerId) -> None:
        if (link := self._links.get(drafter)) is not None:
            link.close_session(runner)

    def _supply(self, runner: SessionRunner) -> None:
        """Fill a session's places with the least busy nodes, from owners and sites it does not have yet if possible."""
        nodes = self._sessions[runner]
        while len(nodes) < self._per_session:
            free = [link for node, link in self._links.items() if node not in nodes]
            if not free:
                return
            places = {self._place(node) for node in nodes}
            best = min(free, key=lambda link: (self._place(link.node) in places, link.load, link.node))
            nodes.add(best.node)
            lanes = runner.session.drafters.values()
            runner.join(best.node, next(lane for lane in range(self._per_session) if lane not in lanes))

    def _place(self, node: PeerId) -> tuple[str, str] | None:
        link = self._links.get(node)
        return (link.lease.owner, link.lease.site) if link is not None and link.lease is not None else None

    def _admit(self, lease: str, node: PeerId) -> LeaseClaims:
        claims = check(lease, coordinator=self._coordinator, clock=self._clock, node=node, target=self._me)
        if claims.jti in self._revoked:
            raise RemoteProtocolError("the lease was revoked", CloseCode.LEASE_REFUSED)
        return claims
