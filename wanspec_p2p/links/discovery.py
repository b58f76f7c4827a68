"""Finding a coordinator on the local network by multicast DNS (RFC 6762, RFC 6763).

A hint and no more: anybody on the network may announce anything. What is found names an address to try; whether the
right coordinator answers there is decided by its key, as everywhere. Announcing is off unless the operator asks for
it, since some networks forbid it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links.address import split
from wanspec_p2p.types import PeerId

__all__ = ["SERVICE_TYPE", "Beacon", "advertise", "browse"]

SERVICE_TYPE = "_wanspec._tcp.local."
_RESOLVE_MILLISECONDS = 1000
_MAX_FOUND = 64
_MAX_TXT = 200  # bytes of one value: RFC 6763 §6.1 allows 255 with its key

Interfaces: TypeAlias = InterfaceChoice | Sequence[str]


@dataclass(frozen=True, slots=True)
class Beacon:
    """What is announced: who, under which certificate, where."""

    peer: PeerId
    certificate: str | None  # SHA-256 of the DER, hex; None on loopback
    url: str

    def to_service(self) -> AsyncServiceInfo:
        """Raises ConfigError: the URL does not fit, or is none."""
        if not _is_address(self.url):
            raise ConfigError(
                f"{self.url!r} cannot be announced on the local network: it must be a short ws(s):// address"
            )
        parts, host = split(self.url)
        properties = {"peer": self.peer, "url": self.url}
        if self.certificate is not None:
            properties["certificate"] = self.certificate
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self.peer}.{SERVICE_TYPE}",
            port=parts.port or (443 if parts.scheme == "wss" else 80),
            properties=properties,
            server=f"wanspec-{self.peer[:16]}.local.",
            parsed_addresses=_addresses(host),
        )

    @classmethod
    def from_properties(cls, properties: dict[bytes, bytes | None]) -> Beacon | None:
        """Read a TXT record; None for one that is not ours or not well-formed."""
        try:
            text = {key.decode(): (value or b"").decode() for key, value in properties.items()}
        except UnicodeDecodeError:
            return None
        peer, url, certificate = text.get("peer", ""), text.get("url", ""), text.get("certificate")
        if not (_PEER.match(peer) and _is_address(url)):
            return None
        if certificate is not None and not _DIGEST.match(certificate):
            return None
        return cls(PeerId(peer), certificate, url)


_PEER = re.compile(r"[a-z2-7]{32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_URL = re.compile(r"wss?://[!-~]+\Z")  # printable ASCII: it goes to screens


def _is_address(url: str) -> bool:
    try:
        return _URL.match(url) is not None and len(url) <= _MAX_TXT and bool(split(url)[1])
    except ValueError:
        return False


@contextlib.asynccontextmanager
async def advertise(beacon: Beacon, *, interfaces: Interfaces = InterfaceChoice.All) -> AsyncIterator[None]:
    """Announce a coordinator while the body runs, and take it back after.

    Raises:
        ConfigError: the network has no multicast, or somebody announces the same peer.
    """
    service = beacon.to_service()
    async with _zeroconf(interfaces) as network:
        try:
            await (await network.async_register_service(service))
        except (OSError, ZeroconfError) as error:
            raise ConfigError(f"the coordinator cannot be announced on the local network: {_why(error)}") from error
        try:
            yield
        finally:
            await (await network.async_unregister_service(service))


async def browse(
    seconds: float,
    *,
    until: PeerId | None = None,
    but: Collection[str] = (),
    interfaces: Interfaces = InterfaceChoice.All,
) -> list[Beacon]:
    """The coordinators that announce themselves within `seconds`, in the order they were heard.

    Args:
        until: return as soon as this one is among them.
        but: URLs whose beacons are passed over. Anybody may announce any peer, and the first to do so is the one that
            counts.

    Raises:
        ConfigError: the network has no multicast.
    """
    names: asyncio.Queue[str] = asyncio.Queue(_MAX_FOUND)
    found: dict[PeerId, Beacon] = {}

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed and not names.full():
            names.put_nowait(name)

    async with _zeroconf(interfaces) as network:
        browser = AsyncServiceBrowser(network.zeroconf, SERVICE_TYPE, handlers=[heard])
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while len(found) < _MAX_FOUND and until not in found:
                        service = AsyncServiceInfo(SERVICE_TYPE, await names.get())
                        await service.async_request(network.zeroconf, _RESOLVE_MILLISECONDS)
                        beacon = Beacon.from_properties(service.properties)
                        if beacon is not None and beacon.url not in but:
                            found.setdefault(beacon.peer, beacon)
        finally:
            await browser.async_cancel()
    return list(found.values())


@contextlib.asynccontextmanager
async def _zeroconf(interfaces: Interfaces) -> AsyncIterator[AsyncZeroconf]:
    try:
        network = AsyncZeroconf(interfaces=interfaces)
    except (OSError, RuntimeError) as error:  # RuntimeError: no interface at all
        raise ConfigError(f"this machine has no multicast on the local network: {_why(error)}") from error
    try:
        yield network
    finally:
        await network.async_close()


def _addresses(host: str) -> list[str]:
    """For other people's mDNS browsers; a peer dials the URL, and a name in it is resolved as any other."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return []


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
