"""The coordinator a peer belongs to, wherever it is reached and whichever key and certificate it has come to use.

Addresses are hints; the key that was pinned when the peer joined decides. It moves on only along statements in which
the old key signed the new one (security/succession.py), which the handshake checks. The certificate that was pinned
moves on in the same manner (security/certificate_succession.py), which dialling checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec
import structlog

from wanspec_p2p.errors import ConfigError, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.address import split
from wanspec_p2p.links.closing import may_be_a_strangers
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import ControlMessage
from wanspec_p2p.security.identity import peer_id
from wanspec_p2p.security.tls import is_loopback

__all__ = ["Home", "check_urls"]

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=ControlMessage)
Failure: TypeAlias = RemoteProtocolError | Unreachable | LinkClosed | PeerRefused


class Home:
    """Args:
    membership: what is known of the coordinator.
    urls: where else it may be.

    Raises:
        ConfigError: an address that could never be dialled.
    """

    def __init__(self, membership: Membership, urls: Sequence[str] = ()) -> None:
        if membership.certificate is None and any(url.startswith("wss://") for url in urls):
            raise ConfigError("coordinator_urls: this coordinator was joined without TLS, so no wss:// can be checked")
        self.membership = membership
        """Where the coordinator is looked for first, and the key and the certificate it showed last. This is kept."""
        self.url = membership.url
        """Where it was reached last."""
        self._urls = (membership.url, *urls)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where `reach` looks, in this order."""
        return tuple(dict.fromkeys((self.membership.url, *self._urls)))

    async def reach(self, dial: Callable[[Membership], Awaitable[PeerLink[T]]]) -> PeerLink[T]:
        """A link from the first address at which the coordinator proves itself: where it was last, then the others.

        Args:
            dial: opens a link to the coordinator at the address of a membership, or to what succeeded its key.

        Raises:
            RemoteProtocolError: somebody else answers, at every address.
            Unreachable, LinkClosed: nobody answers at one of them, so that the coordinator may only be away.
            PeerRefused: the coordinator will not have us now; it is the same one everywhere. Or whoever answers refused
                the handshake, and nobody who would not is elsewhere.
        """
        failures: list[Failure] = []
        for url in self.addresses:
            place = msgspec.structs.replace(self.membership, url=url)
            try:
                link = await dial(place)
            except PeerRefused as error:
                if not may_be_a_strangers(error):
                    raise
                failures.append(error)
            except (RemoteProtocolError, Unreachable, LinkClosed) as error:
                failures.append(error)
            else:
                self._proved(place, link)
                return link
        raise _worst(failures)

    async def reach_at(self, url: str, dial: Callable[[Membership], Awaitable[PeerLink[T]]]) -> PeerLink[T]:
        """A link from an address that anybody may have named. It serves this once and is not kept: whoever relays to
        the coordinator from there could cut us off for good by leaving.

        Raises:
            As `dial`.
        """
        link = await dial(msgspec.structs.replace(self.membership, url=url))
        self._proved(self.membership, link)
        self.url = url
        return link

    def _proved(self, place: Membership, link: PeerLink[T]) -> None:
        """It has proved its key on a connection that is bound to this certificate: the earlier ones are done with."""
        key, certificate = link.public_key, link.certificate
        if key != place.coordinator:
            log.warning("the coordinator has a new key, signed by its old one", now=peer_id(key), was=place.peer_id)
        if certificate is None:
            certificate = place.certificate  # reached without TLS, on this machine
        elif certificate != place.certificate:
            message = "the coordinator has a new certificate, signed by its old one"
            log.warning(message, now=certificate, was=place.certificate)
        self.membership = msgspec.structs.replace(place, coordinator=key, certificate=certificate)
        self.url = place.url


def _worst(failures: Sequence[Failure]) -> Exception:
    if len(failures) == 1:
        return failures[0]
    if all(isinstance(failure, RemoteProtocolError | PeerRefused) for failure in failures):
        return next((failure for failure in failures if isinstance(failure, PeerRefused)), failures[0])
    return Unreachable("; ".join(map(str, failures)))


def check_urls(urls: Sequence[str]) -> None:
    """Raises ValueError for what is no address of a coordinator. Whether it may be dialled is seen when it is."""
    for url in urls:
        try:
            parts, host = split(url)
            fine = bool(host) and (parts.scheme == "wss" or (parts.scheme == "ws" and is_loopback(host)))
        except ValueError:
            fine = False
        if not fine or len(url) > limits.MAX_URL:
            raise ValueError(f"coordinator_urls: {url!r} is not a coordinator's address; it looks like wss://name:port")
