from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.support.certificates import self_made as bare
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import ConfigError, UsageError
from wanspec_p2p.security import self_made
from wanspec_p2p.security.certificate_succession import leads_to
from wanspec_p2p.security.self_made import (
    CERTIFICATE,
    KEY,
    NEXT,
    load_or_create_certificate,
    names_host,
    replace_certificate,
)
from wanspec_p2p.security.tls import certificate_fingerprint, fingerprint, listener_context


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


def test_a_certificate_without_names_names_nobody(tmp_path: Path) -> None:
    assert not names_host(bare(tmp_path)[0], "localhost")


def test_files_that_hold_no_key_of_ours_are_named(tmp_path: Path) -> None:
    clock = ManualClock()
    _, key = load_or_create_certificate(tmp_path, "localhost", clock=clock)
    key.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="does not hold a private key"):
        load_or_create_certificate(tmp_path, "localhost", clock=clock)
    key.chmod(0o644)
    with pytest.raises(UsageError, match="TLS key .* is open to others"):
        load_or_create_certificate(tmp_path, "localhost", clock=clock)


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


@pytest.mark.parametrize("strict", [False, True], ids=["as Python 3.11", "as Python 3.13"])
def test_who_trusts_a_self_made_certificate_as_an_authority_reaches_its_hosts_and_no_other(
    tmp_path: Path, strict: bool
) -> None:
    """What `wanspec coordinator ca` prints, for clients that can name a file of authorities (SSL_CERT_FILE)."""
    hosts = ("coordinator.example", "localhost", "127.0.0.1")
    certificate, key = load_or_create_certificate(tmp_path, *hosts, clock=SystemClock())
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

    for host in hosts:
        assert names_host(certificate, host)
        handshake(host)
    assert not names_host(certificate, "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake("elsewhere.example")


# Another one --------------------------------------------------------------------------------------------------------


def replaced(directory: Path) -> tuple[bytes, bytes]:
    return replace_certificate(directory, "localhost", clock=ManualClock())


def test_the_old_certificate_leads_to_the_new_one_and_its_key_is_gone(tmp_path: Path) -> None:
    certificate, key = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    pinned, secret = certificate_fingerprint(certificate), key.read_bytes().splitlines()[1]
    old, new = replaced(tmp_path)
    assert (fingerprint(old), fingerprint(new)) == (pinned, certificate_fingerprint(certificate)) and old != new
    assert leads_to(new, pinned) and not leads_to(old, fingerprint(new))
    assert listener_context(certificate, key).certificate == new  # type: ignore[attr-defined]  # a ListenerContext
    assert sorted(os.listdir(tmp_path)) == [CERTIFICATE, KEY]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert all(secret not in (tmp_path / name).read_bytes() for name in os.listdir(tmp_path))


def test_a_new_one_can_be_trusted_as_an_authority_like_the_first(tmp_path: Path) -> None:
    load_or_create_certificate(tmp_path, "localhost", clock=SystemClock())
    replace_certificate(tmp_path, "elsewhere.example", clock=SystemClock())
    shown = x509.load_pem_x509_certificate((tmp_path / CERTIFICATE).read_bytes())
    shown.verify_directly_issued_by(shown)
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("elsewhere.example")]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_crash_at_any_step_leaves_a_pair_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    certificate, key = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    pinned = certificate_fingerprint(certificate)
    replace, steps = os.replace, 0

    def crash(source: Path, target: Path) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            replaced(tmp_path)
    assert load_or_create_certificate(tmp_path, "localhost", clock=ManualClock()) == (certificate, key)
    context = listener_context(certificate, key)  # which fails where they do not belong together
    assert leads_to(context.certificate, pinned)  # type: ignore[attr-defined]  # a ListenerContext
    assert (certificate_fingerprint(certificate) == pinned) is (at < 3)
    replaced(tmp_path)
    assert not (tmp_path / NEXT).exists()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    before = certificate.read_bytes(), key.read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(self_made, "write_whole", full)
    with pytest.raises(ConfigError, match="No space left on device; the old certificate stays"):
        replaced(tmp_path)
    assert (certificate.read_bytes(), key.read_bytes()) == before


def test_a_pair_that_does_not_belong_together_is_not_handed_on(tmp_path: Path) -> None:
    certificate, _ = load_or_create_certificate(tmp_path / "a", "localhost", clock=ManualClock())
    other, _ = load_or_create_certificate(tmp_path / "b", "localhost", clock=ManualClock())
    certificate.write_bytes(other.read_bytes())
    with pytest.raises(ConfigError, match="does not belong to"):
        replaced(tmp_path / "a")


def test_one_that_has_grown_too_large_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    sizes = [len(replaced(tmp_path)[1]) for _ in range(3)]
    assert sizes[2] - sizes[1] < 700, "there is room for twenty and more"
    monkeypatch.setattr(self_made, "MAX_CERTIFICATE_BYTES", sizes[2] - 1)
    with pytest.raises(ConfigError, match="replaced so often"):
        replaced(tmp_path)
