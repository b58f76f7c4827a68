"""Certificates that a listener makes for itself, and their keys: made once, replaced on demand."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.certificate_succession import predecessor
from wanspec_p2p.security.files import create_once, write_whole

__all__ = ["CERTIFICATE", "KEY", "NEXT", "load_or_create_certificate", "names_host", "replace_certificate"]

CERTIFICATE, KEY, NEXT = "tls-certificate.pem", "tls-key.pem", "tls-certificate-next.pem"
"""Names of the files. The last is there for a moment only, or after a crash in it."""
MAX_CERTIFICATE_BYTES = 16_384
"""Of a certificate that is still handed on; each holds the one before, and is larger by about 600 bytes."""
_YEARS = 10


def load_or_create_certificate(directory: Path, *hosts: str, clock: Clock) -> tuple[Path, Path]:
    """The paths (certificate, key) of a self-made ECDSA P-256 certificate, made on first use, valid for ten years.

    Args:
        hosts: names and addresses put into it for the sake of HTTP clients; peers look at the fingerprint alone, so an
            existing certificate stays when they change.

    Raises:
        UsageError: a file is open to others, or cannot be read or written.
        ConfigError: a file holds something else.
    """
    certificate, key = directory / CERTIFICATE, directory / KEY
    private = _key(key, create_once(key, _pem(ec.generate_private_key(ec.SECP256R1())), what="TLS key"))
    _put_next_in_place(directory, private)
    create_once(certificate, _self_signed(private, hosts, clock), what="TLS certificate")
    return certificate, key


def names_host(certificate: Path, host: str) -> bool:
    """Whether HTTP clients that trust this certificate find this name or address in it."""
    try:
        names = _certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return _alternative_name(host) in names


def replace_certificate(directory: Path, *hosts: str, clock: Clock) -> tuple[bytes, bytes]:
    """Make a new certificate that the old one's key signs; that key is gone afterwards. Returns (old, new), DER.

    The key is what decides: until it is replaced the old certificate holds, and from then on the new one, which whoever
    loads the two next puts in its place should we not come to it.

    Raises:
        UsageError, ConfigError: as `load_or_create_certificate`; or it was replaced too often; or the directory cannot
            be written, and nothing has changed.
    """
    certificate, key = load_or_create_certificate(directory, *hosts, clock=clock)
    private = _key(key, key.read_bytes())
    old = _certificate(certificate)
    if _spki(old.public_key()) != _spki(private.public_key()):
        raise ConfigError(f"{key} does not belong to {certificate}: restore both from one backup")
    der = old.public_bytes(serialization.Encoding.DER)
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ConfigError(
            f"{certificate} was replaced so often that it has grown to {len(der)} bytes: move {directory} away to "
            "begin anew; peers then have to join again"
        )
    fresh = ec.generate_private_key(ec.SECP256R1())
    pem = _self_signed(fresh, hosts, clock, predecessor(der, private, fresh.public_key()))
    try:
        write_whole(directory / NEXT, pem, private=True)
        write_whole(key, _pem(fresh), private=True)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error.strerror}; the old certificate stays") from error
    _put_next_in_place(directory, fresh)
    return der, _certificate(certificate).public_bytes(serialization.Encoding.DER)


def _put_next_in_place(directory: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Where a new certificate waits for its key and this is it. Several processes may come to it at once."""
    waiting = directory / NEXT
    with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: half a file is nobody's certificate
        if _spki(x509.load_pem_x509_certificate(waiting.read_bytes()).public_key()) == _spki(key.public_key()):
            os.replace(waiting, directory / CERTIFICATE)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} does not hold a certificate in PEM form") from error


def _key(path: Path, pem: bytes) -> ec.EllipticCurvePrivateKey:
    both = f"{path} and {path.with_name(CERTIFICATE)}"
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} does not hold a private key: move {both} away") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} does not hold an ECDSA key: move {both} away")
    return private


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: object) -> bytes:
    """A public key in the one form in which two can be compared; empty for one of a kind that is not ours."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _self_signed(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    clock: Clock,
    before: x509.UnrecognizedExtension | None = None,
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wanspec-p2p")])
    now = datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([_alternative_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    if before is not None:
        builder = builder.add_extension(before, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(
            f"{host!r} cannot be put into a certificate: give a host name in ASCII, or an address"
        ) from error
