from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import ConfigError, UsageError
from wanspec_p2p.security.tls import (
    ListenerContext,
    certificate_fingerprint,
    channel_binding,
    dialler_context,
    fingerprint,
    is_loopback,
    listener_context,
    load_or_create_certificate,
)


def _signed_with(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, algorithm: hashes.HashAlgorithm | None
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)  # type: ignore[arg-type]  # narrowed by the cases


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    clock = ManualClock(1_800_000_000.0)
    certificate, key = load_or_create_certificate(tmp_path / "tls", "192.0.2.7", clock=clock)
    before = certificate.read_bytes(), key.read_bytes()
    assert load_or_create_certificate(tmp_path / "tls", "elsewhere.example", clock=clock) == (certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert len(os.listdir(tmp_path / "tls")) == 2


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", x509.IPAddress(ipaddress.ip_address("192.0.2.7"))),
        ("[2001:db8::1]", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
        ("target.example", x509.DNSName("target.example")),
    ],
)
def test_what_it_says(tmp_path: Path, host: str, name: x509.GeneralName) -> None:
    path, _ = load_or_create_certificate(tmp_path, host, clock=ManualClock(1_800_000_000.0))
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert certificate.not_valid_before_utc.timestamp() == 1_800_000_000 - 86_400
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 3651
    assert list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [name]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_fingerprints(tmp_path: Path) -> None:
    path, key = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    assert fingerprint(der) == certificate_fingerprint(path) == hashlib.sha256(der).hexdigest()
    context = listener_context(path, key)
    assert isinstance(context, ListenerContext)
    assert context.certificate == der
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_dialler_leaves_the_decision_to_the_fingerprint() -> None:
    context = dialler_context()
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [(hashes.SHA256(), hashlib.sha256), (hashes.SHA384(), hashlib.sha384), (hashes.SHA512(), hashlib.sha512)],
)
def test_channel_binding_uses_the_hash_of_the_signature(algorithm: hashes.HashAlgorithm, expected: type) -> None:
    der = _signed_with(ec.generate_private_key(ec.SECP256R1()), algorithm)
    assert channel_binding(der) == expected(der).digest()


def test_channel_binding_falls_back_to_sha_256() -> None:
    der = _signed_with(ed25519.Ed25519PrivateKey.generate(), None)  # has no hash of its own
    assert channel_binding(der) == hashlib.sha256(der).digest()
    assert channel_binding(b"unreadable") == hashlib.sha256(b"unreadable").digest()


def test_files_that_are_of_no_use_are_named(tmp_path: Path) -> None:
    clock = ManualClock()
    certificate, key = load_or_create_certificate(tmp_path / "a", "localhost", clock=clock)
    _, other_key = load_or_create_certificate(tmp_path / "b", "localhost", clock=clock)
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="junk.pem does not hold a certificate"):
        certificate_fingerprint(junk)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        certificate_fingerprint(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        listener_context(certificate, other_key)
    key.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="does not hold a private key"):
        load_or_create_certificate(tmp_path / "a", "localhost", clock=clock)
    key.chmod(0o644)
    with pytest.raises(UsageError, match="TLS key .* is open to others"):
        load_or_create_certificate(tmp_path / "a", "localhost", clock=clock)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "tls-key.pem"
    key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="does not hold an ECDSA key"):
        load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())


def test_a_host_that_no_certificate_can_name_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be put into a certificate"):
        load_or_create_certificate(tmp_path, "zürich.example", clock=ManualClock())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "192.168.0.1",
        "localhost.example",
        "127.0.0.1.example",
        "127.1",
        "::ffff:10.0.0.1",
        "2130706433",
    ],
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("strict", [False, True], ids=["as Python 3.11", "as Python 3.13"])
def test_who_trusts_a_self_made_certificate_as_an_authority_reaches_its_host_and_no_other(
    tmp_path: Path, strict: bool
) -> None:
    """What `wanspec coordinator ca` prints, for clients that can name a file of authorities (SSL_CERT_FILE)."""
    certificate, key = load_or_create_certificate(tmp_path, "coordinator.example", clock=SystemClock())
    trusting = ssl.create_default_context(cafile=certificate)
    if strict:
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN

    def handshake(host: str) -> None:
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(ours, theirs, server_hostname=host)
        server = listener_context(certificate, key).wrap_bio(theirs, ours, server_side=True)
        for _ in range(3):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        assert client.version() is not None

    handshake("coordinator.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake("elsewhere.example")
