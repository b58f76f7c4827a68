from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.security.tls import (
    ListenerContext,
    certificate_fingerprint,
    channel_binding,
    dialler_context,
    fingerprint,
    is_loopback,
    listener_context,
    may_be_here,
)


def _signed_with(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, algorithm: hashes.HashAlgorithm | None
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)  # type: ignore[arg-type]  # narrowed by the cases


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
    certificate, _ = load_or_create_certificate(tmp_path / "a", "localhost", clock=clock)
    _, other_key = load_or_create_certificate(tmp_path / "b", "localhost", clock=clock)
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="junk.pem does not hold a certificate"):
        certificate_fingerprint(junk)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        certificate_fingerprint(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        listener_context(certificate, other_key)


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


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost.",
        "a.localhost",
        "a.LOCALHOST.",
        "127.8.9.10",
        "127.0.0.1.",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0",
        "0.0.0.0",
        "0.0.0.1",
        "１２７.0.0.1",  # digits that sockets take for plain ones
        "127。0。0。1",
        "::",
        "[::1]",
        "::1%lo",
        "[::ffff:0.0.0.0]",
        "::ffff:0:0",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::0.0.0.0",
        "2002:7f00:1::1",
    ],
)
def test_what_may_be_this_machine(host: str) -> None:
    assert may_be_here(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "gpu.example",
        "localhost.example",
        "127.0.0.1.example",
        "10.0.0.127",
        "10.127.0.1",
        "2001:db8::7f00:1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "fe80::1%eth0",
        "a..b",
        "a" * 64,
    ],
)
def test_what_is_another_machine(host: str) -> None:
    assert not may_be_here(host)
