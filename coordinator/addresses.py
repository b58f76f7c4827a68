"""Where a coordinator is reached: by submitters over HTTP, by peers over websockets, and under which certificate."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

from coordinator.settings import CoordinatorSettings, split_address
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.files import write_whole
from wanspec_p2p.security.self_made import load_or_create_certificate, names_host
from wanspec_p2p.security.tls import fingerprint, is_loopback

__all__ = [
    "Addresses",
    "TlsFiles",
    "asked_here",
    "certificate_der",
    "certificate_files",
    "certificate_pem",
    "certificate_shown",
    "certified_hosts",
    "dialable",
    "fingerprint_of",
    "fingerprint_shown",
    "host_left_out",
    "load",
    "names_of",
    "of_settings",
    "of_url",
    "pem_of",
    "store",
    "to_dial",
    "to_pin",
]

WILDCARDS = frozenset({"0.0.0.0", "::", ""})


class Addresses(msgspec.Struct, frozen=True):
    """The content of `coordinator.json`."""

    http: str  # http(s)://…: for submitters
    peers: str  # ws(s)://…: for nodes and targets; goes into join tokens
    certificate: str | None = None  # PEM, as it is shown there; files of earlier releases lack it


@dataclass(frozen=True, slots=True)
class TlsFiles:
    certificate: Path
    key: Path


def of_settings(settings: CoordinatorSettings, port: int) -> Addresses:
    """Where a coordinator that listens on `port` is reached."""
    if settings.public_url is not None:
        return of_url(settings.public_url)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return of_url(f"{'https' if settings.tls else 'http'}://{host}:{port}")


def of_url(url: str) -> Addresses:
    """Both addresses from either.

    Raises:
        ConfigError: it is not a URL of a coordinator.
    """
    secure, _ = split_address(url)
    parts = urlsplit(url)
    rest = (parts.netloc, parts.path.rstrip("/"), "", "")
    return Addresses(urlunsplit(("https" if secure else "http", *rest)), urlunsplit(("wss" if secure else "ws", *rest)))


def dialable(addresses: Addresses) -> bool:
    """Whether it names a host; one that listens on every address of its machine does not."""
    return (urlsplit(addresses.peers).hostname or "") not in WILDCARDS


def asked_here(addresses: Addresses) -> str:
    """What a submitter on the coordinator's own machine asks: "every address" would lead through a proxy, if there is
    one, and a certificate does not name it."""
    parts = urlsplit(addresses.http)
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")
    return addresses.http if here is None else urlunsplit(parts._replace(netloc=f"{here}:{parts.port}"))


def certificate_files(settings: CoordinatorSettings, clock: Clock) -> TlsFiles | None:
    """What we listen with: the operator's certificate, or a self-made one; None without TLS."""
    if not settings.tls:
        return None
    if settings.tls_cert is not None and settings.tls_key is not None:
        return TlsFiles(settings.tls_cert, settings.tls_key)
    return TlsFiles(*load_or_create_certificate(settings.certificate_dir, *certified_hosts(settings), clock=clock))


def certified_hosts(settings: CoordinatorSettings) -> tuple[str, ...]:
    """For which names and addresses a certificate of our own is made; the first is what others are told."""
    return names_of(urlsplit(settings.public_url or "").hostname or settings.host, settings.host)


def names_of(*hosts: str) -> tuple[str, ...]:
    """The same, each once; every address of this machine goes by the names that are known without asking anybody."""
    own = socket.gethostname()
    here = ("localhost", "127.0.0.1", "::1", *([own] if own and own.isascii() else []))
    return tuple(dict.fromkeys(name for host in hosts for name in (here if host in WILDCARDS else (host,))))


def host_left_out(settings: CoordinatorSettings, certificate: Path) -> str | None:
    """The host others are told, where a certificate we made before does not name it; one we were given is not asked."""
    host = certified_hosts(settings)[0]
    return None if settings.tls_cert is not None or names_host(certificate, host) else host


def certificate_shown(settings: CoordinatorSettings, clock: Clock) -> Path | None:
    """The certificate a peer is shown: a proxy's where there is one, else ours."""
    if settings.proxy_cert is not None:
        return settings.proxy_cert
    files = certificate_files(settings, clock)
    return None if files is None else files.certificate


def certificate_pem(settings: CoordinatorSettings, clock: Clock) -> str | None:
    """What peers and submitters are shown (PEM) by the coordinator that runs here or ran last, whatever flags it was
    given; where none ever ran, as the settings have it. None without TLS.
    """
    known = load(settings)
    if known is not None and known.certificate is not None:
        return known.certificate
    shown = certificate_shown(settings, clock)
    return None if shown is None else pem_of(certificate_der(shown))


def pem_of(der: bytes) -> str:
    return load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def fingerprint_of(pem: str) -> str:
    """SHA-256 of a certificate (DER), hex."""
    return fingerprint(load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER))


def certificate_der(pem: Path) -> bytes:
    """Raises ConfigError for a file that holds no certificate."""
    try:
        return load_pem_x509_certificate(pem.read_bytes()).public_bytes(Encoding.DER)
    except OSError as error:
        raise ConfigError(f"the certificate {pem} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{pem} does not hold a certificate in PEM form") from error


def fingerprint_shown(settings: CoordinatorSettings, clock: Clock) -> str | None:
    """SHA-256 of it (DER), hex."""
    shown = certificate_shown(settings, clock)
    return None if shown is None else fingerprint(certificate_der(shown))


def load(settings: CoordinatorSettings) -> Addresses | None:
    """Where the coordinator of this data directory was last reached; None if it never ran."""
    try:
        return msgspec.json.decode(settings.address_file.read_bytes(), type=Addresses)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{settings.address_file} cannot be read ({error}): start the coordinator again") from error


def to_dial(settings: CoordinatorSettings, url: str | None) -> Addresses:
    """Where peers are to dial: at `url`, or where the settings say, or where the coordinator was last reached.

    Raises:
        ConfigError: nobody knows, or peers cannot or will not dial it; one line says what to give.
    """
    given = url if url is not None else settings.public_url
    known = of_url(given) if given is not None else load(settings)
    if known is None and settings.port:
        known = of_settings(settings, settings.port)
    if known is None:
        raise ConfigError(
            f"no coordinator has been started in {settings.data_dir}, so its address is unknown: start it, or give its "
            "--url, or another --data-dir"
        )
    if not dialable(known):
        raise ConfigError(
            f"the coordinator listens on every address ({known.peers}): give the --url that peers can dial"
        )
    secure, host = split_address(known.peers)
    if not secure and not is_loopback(host):
        raise ConfigError(
            f"{known.http} is neither loopback nor encrypted, so no peer dials it: give an https:// --url"
        )
    return known


def to_pin(settings: CoordinatorSettings, dialled: Addresses, clock: Clock) -> str | None:
    """The fingerprint of what peers are shown there; None without TLS. An authority's word counts for nothing on links.

    Raises:
        ConfigError: it is not known.
    """
    if not dialled.peers.startswith("wss:"):
        return None
    pem = certificate_pem(settings, clock)
    if pem is None:
        raise ConfigError(
            f"no certificate is known for {dialled.http}, and peers have to pin it: run the coordinator with "
            f"--public-url {dialled.http}, and with --proxy-cert where a proxy ends TLS"
        )
    return fingerprint_of(pem)


def store(settings: CoordinatorSettings, addresses: Addresses) -> None:
    """Whole or not at all: `admin` may read it at any moment. Raises ConfigError where it cannot be written."""
    path = settings.address_file
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(addresses), indent=2), private=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
