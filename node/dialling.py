"""How a node reaches others. It only ever dials out, and to nobody whose key it was not told beforehand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

import structlog

from node.landmarks import connection_seconds
from node.lease_checks import Held
from wanspec_p2p import __version__
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, ConfigError, LinkClosed, RemoteProtocolError, Unreachable, UsageError
from wanspec_p2p.links import discovery, websocket
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.home import Home
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.protocol.codec import AT_NODE_FROM_COORDINATOR, AT_NODE_FROM_TARGET, Codec
from wanspec_p2p.protocol.common_messages import ENROLMENT, LANDMARKS, SUCCESSION, ControlMessage, DraftLinkMessage
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode, Landmark
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.tls import is_loopback
from wanspec_p2p.types import PeerId, Role

__all__ = ["COORDINATOR_PATH", "Dialler", "find_on_local_network"]

COORDINATOR_PATH = "/wanspec/node"
BROWSE_SECONDS = 3.0
MAX_HINTS = 4
"""Addresses that were found and are tried, before it is our turn to wait."""

Find: TypeAlias = Callable[[PeerId, Collection[str]], Awaitable[str | None]]

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=ControlMessage | DraftLinkMessage)


class Dialler:
    """Args:
    membership: the coordinator we belong to.
    urls: where else it may be.
    find: looks for our coordinator on the local network when its own address does not answer, and tells an address
        other than those it is given.
    """

    def __init__(
        self,
        identity: Identity,
        membership: Membership,
        clock: Clock,
        find: Find | None = None,
        urls: Sequence[str] = (),
    ) -> None:
        self._home = Home(membership, urls)
        self._identity, self._clock, self._find = identity, clock, find

    @property
    def membership(self) -> Membership:
        """Where the coordinator is looked for first, and its key."""
        return self._home.membership

    @property
    def url(self) -> str:
        """Where the coordinator was reached last."""
        return self._home.url

    @property
    def loopback(self) -> bool:
        """The coordinator was reached on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    async def coordinator(self) -> PeerLink[CoordinatorToNode]:
        """A link to our coordinator, be it at an address the local network tells of.

        Raises:
            Unreachable, LinkClosed: nobody answers, or the link broke.
            PeerRefused: the coordinator will not have us now.
            RemoteProtocolError: whoever answered is not our coordinator.
            ConfigError: the join token's address must not be dialled.
        """
        try:
            return await self._home.reach(self._coordinator_at)
        except Unreachable:
            if (link := await self._elsewhere()) is None:
                raise
            return link

    async def _elsewhere(self) -> PeerLink[CoordinatorToNode] | None:
        """A link to our coordinator at an address that was found. Such an address is a hint, and anybody may have given
        it: the keys stay those we were told, and who lacks them, or cannot be dialled at all, is not our coordinator.
        """
        # Off loopback a link needs TLS, and TLS needs the fingerprint that came with the join token.
        if self._find is None or self.membership.certificate is None:
            return None
        tried = set(self._home.addresses)
        for _ in range(MAX_HINTS):
            url = await self._find(self.membership.peer_id, tried)
            if url is None:
                break
            tried.add(url)
            if url.startswith("wss://"):
                try:
                    return await self._home.reach_at(url, self._coordinator_at)
                except (UsageError, RemoteProtocolError, LinkClosed) as error:
                    log.info("the coordinator is not where it is announced", address=url, reason=str(error))
        return None

    async def _coordinator_at(self, membership: Membership) -> PeerLink[CoordinatorToNode]:
        url = membership.url.rstrip("/") + COORDINATOR_PATH
        codec = AT_NODE_FROM_COORDINATOR
        features = SUCCESSION, LANDMARKS, ENROLMENT
        return await self._connect(
            url, membership.certificate, codec, membership.peer_id, Role.COORDINATOR, features=features
        )

    async def target(self, lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
        """A link to the target of a lease, at one of its `dialable` addresses; raises as `coordinator`."""
        claims = lease.claims
        return await self._connect(address, claims.certificate, AT_NODE_FROM_TARGET, claims.target, Role.TARGET)

    async def time(self, landmark: Landmark) -> float:
        """See `connection_seconds`."""
        return await connection_seconds(landmark, self._clock)

    async def _connect(
        self,
        url: str,
        certificate: str | None,
        codec: Codec[T],
        expect: PeerId,
        role: Role,
        features: Sequence[str] = (),
    ) -> PeerLink[T]:
        transport = await websocket.dial(url, certificate=certificate)
        link = await connect(
            transport,
            codec,
            identity=self._identity,
            role=Role.NODE,
            expect=expect,
            clock=self._clock,
            features=features,
            software=f"wanspec-p2p {__version__}",
            certificate=transport.certificate,
        )
        if link.role is not role:
            reason = f"the peer is a {link.role}, not a {role}"
            await link.close(CloseCode.HANDSHAKE_FAILED, reason)
            raise RemoteProtocolError(reason, CloseCode.HANDSHAKE_FAILED)
        return link


async def find_on_local_network(peer: PeerId, but: Collection[str]) -> str | None:
    """Where this coordinator is announced, other than at the URLs in `but`; None where it is not, or the network cannot
    be asked.
    """
    try:
        beacons = await discovery.browse(BROWSE_SECONDS, until=peer, but=but)
    except ConfigError as error:
        log.info("the local network cannot be asked for the coordinator", reason=str(error))
        return None
    return next((beacon.url for beacon in beacons if beacon.peer == peer), None)
