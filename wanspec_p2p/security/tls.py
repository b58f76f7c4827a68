"""TLS without an authority: self-made certificates, known by their fingerprint.

A dialler does not ask who signed a certificate, which name it carries or when it ends: it compares the SHA-256 of
what it is shown with the fingerprint that came in its join token or lease. Who the peer *is* is decided by its
Ed25519 key; the handshake signs this certificate's hash into its transcript (RFC 5929 tls-server-end-point).
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from wanspec_p2p.errors import ConfigError

__all__ = [
    "ListenerContext",
    "certificate_fingerprint",
    "channel_binding",
    "dialler_context",
    "fingerprint",
    "is_loopback",
    "listener_context",
    "may_be_here",
]


class ListenerContext(ssl.SSLContext):
    """An `ssl.SSLContext` that can be asked for the certificate it presents, which the library's own cannot."""

    certificate: bytes
    """DER."""


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate (DER), in hex: what join tokens and leases carry."""
    return hashlib.sha256(der).hexdigest()


def certificate_fingerprint(pem: Path) -> str:
    """Of the first certificate in the file, which is the one a listener presents.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    return fingerprint(_first_certificate(pem))


def channel_binding(der: bytes) -> bytes:
    """RFC 5929 §4.1 tls-server-end-point: the DER under the hash of its own signature, SHA-256 for MD5 and SHA-1."""
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        algorithm = None  # a certificate this library cannot parse
    if algorithm is None or isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()  # the RFC leaves signatures without a hash of their own (Ed25519) undefined
    digest = hashes.Hash(algorithm)
    digest.update(der)
    return digest.finalize()


def listener_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate.

    Raises:
        ConfigError: the files cannot be read or do not belong together.
    """
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.certificate = _first_certificate(cert)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{cert} and {key} cannot be used for TLS: {error.strerror or error}") from error
    return context


def dialler_context() -> ssl.SSLContext:
    """TLS 1.2 or newer that accepts any certificate: the caller compares its fingerprint before sending anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_loopback(host: str) -> bool:
    """Whether a host, as written in a URL or a flag, is this machine. Names other than `localhost` are not."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def may_be_here(host: str) -> bool:
    """Whether dialling a host may reach this machine: loopback in any spelling, 127.1 and 2130706433 too, addresses
    that stand for any, and either within an IPv6 address. `is_loopback` is for what we trust, this for what we keep
    away from. Names are not looked up.
    """
    try:
        host = host.encode("idna").decode()  # as sockets do: other scripts' digits and dots become plain ones
    except UnicodeError:
        pass  # no socket takes it
    host = host.strip("[]").lower().removesuffix(".")
    if is_loopback(host) or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        inner = _carried(address) if isinstance(address, ipaddress.IPv6Address) else address
        return address.is_unspecified or (inner is not None and inner.packed[0] in _HERE)
    try:
        return socket.inet_aton(host)[0] in _HERE
    except (OSError, UnicodeError):
        return False


_HERE = (0, 127)
"""First bytes of the IPv4 addresses that mean this machine."""
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Whose last 32 bits are an IPv4 address (RFC 4291 §2.5.5, RFC 2765, RFC 6052)."""


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a system or a gateway may dial in its place."""
    if any(address in carrier for carrier in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.sixtofour


def _first_certificate(pem: Path) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem.read_bytes()).public_bytes(serialization.Encoding.DER)
    except OSError as error:
        raise ConfigError(f"the certificate {pem} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{pem} does not hold a certificate in PEM form") from error
