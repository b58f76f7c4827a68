"""Everything an operator can decide about a coordinator, as one frozen value built at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links.address import split
from wanspec_p2p.security.tls import is_loopback

__all__ = ["MAX_LEASE_SECONDS", "CoordinatorSettings", "split_address"]

MAX_LEASE_SECONDS = 86_400.0


def split_address(url: str) -> tuple[bool, str]:
    """Whether a coordinator's address is encrypted, and its host.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts, host = split(url)
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https", "ws", "wss"):
        raise ConfigError(f"{url!r} is not a coordinator's address: it looks like https://name:port")
    return parts.scheme in ("https", "wss"), host


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Raises ConfigError where two values contradict each other; the line says what to change."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0  # 0: the system chooses
    tls_cert: Path | None = None  # PEM; off loopback a self-made certificate is the default
    tls_key: Path | None = None
    public_url: str | None = None  # how others reach us, where it is not host:port (a public name, a proxy)
    proxy_cert: Path | None = None  # PEM; the certificate of a proxy that ends TLS in front of us
    heartbeat: float = 2.0  # seconds between the heartbeats peers are asked for
    lease_seconds: float = 600.0
    offer_seconds: float = 2.0  # how long a node may think about an offered lease
    stall_seconds: float = 300.0  # an answer without a token for this long ends with a timeout
    receipt_days: float = 90.0  # how long receipts are kept one by one, and leases after their end; their sums stay
    trusted_pools: tuple[str, ...] = ()  # whose nodes may see prompts of privacy "trusted"
    advertise: bool = False  # tell the local network where we are (a hint; keys still decide)
    name: str = "coordinator"
    log_json: bool = False  # one JSON object a line instead of lines for people

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key belong together: give both, or neither for a self-made certificate")
        if self.proxy_cert is not None and (self.public_url is None or not self.loopback):
            raise ConfigError(
                "proxy_cert goes with a public_url, and with a host that only the proxy reaches (loopback)"
            )
        if self.public_url is not None:
            self._check_public_url(self.public_url)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535, not {self.port}")
        for name, low, high in (
            ("heartbeat", 0.2, 60.0),
            ("lease_seconds", 10.0, MAX_LEASE_SECONDS),
            ("offer_seconds", 0.1, 60.0),
            ("stall_seconds", 1.0, 86_400.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be between {low:g} and {high:g} seconds, not {getattr(self, name):g}")
        if not 1.0 <= self.receipt_days <= 36_500.0:
            raise ConfigError(f"receipt_days must be between 1 and 36500, not {self.receipt_days:g}")

    def _check_public_url(self, url: str) -> None:
        try:
            secure, host = split_address(url)
        except ConfigError as error:
            raise ConfigError(f"public_url: {error}") from error
        if not secure and not is_loopback(host):
            raise ConfigError(f"public_url {url} is neither loopback nor encrypted: use https://")
        if secure and not self.tls and self.proxy_cert is None:
            raise ConfigError("public_url is encrypted and we are not: name the proxy's certificate with proxy_cert")

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def tls(self) -> bool:
        """Off loopback always; on loopback where the operator named a certificate."""
        return not self.loopback or self.tls_cert is not None

    @property
    def exposed(self) -> bool:
        """Others than local users can reach us, directly or through a proxy."""
        public = urlsplit(self.public_url or "").hostname
        return not self.loopback or (public is not None and not is_loopback(public))

    @property
    def identity_file(self) -> Path:
        return self.data_dir / "identity.pem"

    @property
    def succession_file(self) -> Path:
        """The statements in which earlier keys named the next; public, but nothing without the identity."""
        return self.data_dir / "succession.json"

    @property
    def ledger_file(self) -> Path:
        return self.data_dir / "ledger.sqlite3"

    @property
    def address_file(self) -> Path:
        """Where a running coordinator writes the address it got, for `admin` and for people."""
        return self.data_dir / "coordinator.json"

    @property
    def lock_file(self) -> Path:
        return self.data_dir / "coordinator.lock"

    @property
    def certificate_dir(self) -> Path:
        return self.data_dir / "tls"
