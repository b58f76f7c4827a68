from __future__ import annotations

import datetime
import random
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.support.certificates import self_made
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.security import certificate_succession
from wanspec_p2p.security.certificate_succession import MAX_PREDECESSORS, leads_to, predecessor
from wanspec_p2p.security.self_made import load_or_create_certificate, replace_certificate
from wanspec_p2p.security.tls import fingerprint

Extension = x509.UnrecognizedExtension
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def history(directory: Path, changes: int) -> list[bytes]:
    """The certificates of a coordinator that was given so many new ones, the first one first."""
    load_or_create_certificate(directory, "localhost", clock=ManualClock())
    pairs = [replace_certificate(directory, "localhost", clock=ManualClock()) for _ in range(changes)]
    return [pairs[0][0], *(new for _, new in pairs)]


def made(key: ec.EllipticCurvePrivateKey, *extensions: Extension) -> bytes:
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(START).not_valid_after(START + datetime.timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.fixture
def keys() -> list[ec.EllipticCurvePrivateKey]:
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


def test_who_pinned_any_of_the_last_is_led_to_the_present_one_and_nobody_back(tmp_path: Path) -> None:
    shown = history(tmp_path, MAX_PREDECESSORS + 1)
    present = shown[-1]
    assert [leads_to(present, fingerprint(der)) for der in shown] == [False] + [True] * (MAX_PREDECESSORS + 1)
    assert not any(leads_to(der, fingerprint(present)) for der in shown[:-1])


def test_a_certificate_leads_to_itself_whatever_it_is() -> None:
    assert leads_to(b"not even one", fingerprint(b"not even one"))
    assert not leads_to(b"not even one", "0" * 64)


def test_one_of_our_own_that_never_changed_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, _, pinned = self_made(tmp_path)
    certificate, _, _ = self_made(tmp_path / "other")
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
    assert not leads_to(der, pinned)


def test_a_stranger_cannot_put_himself_behind_a_pinned_certificate(keys: list[ec.EllipticCurvePrivateKey]) -> None:
    """All he has is what everybody is shown: the pinned certificate, and the statement made for somebody else's key."""
    old_key, new_key, his = keys
    old = made(old_key)
    statement = predecessor(old, old_key, new_key.public_key())
    assert leads_to(made(new_key, statement), fingerprint(old))
    assert not leads_to(made(his, statement), fingerprint(old)), "it names another key"
    assert not leads_to(made(his, predecessor(old, his, his.public_key())), fingerprint(old)), "his own signature"
    other = made(old_key)  # another certificate of the pinned key, which is not the pinned one
    moved = msgspec.msgpack.decode(statement.value)
    moved[0] = other
    lifted = Extension(statement.oid, msgspec.msgpack.encode(moved))
    assert not leads_to(made(new_key, lifted), fingerprint(other)), "a signature is for one certificate"


def test_a_way_that_is_broken_in_between_leads_nowhere(keys: list[ec.EllipticCurvePrivateKey]) -> None:
    first = made(keys[0])
    second = made(keys[1], predecessor(first, keys[2], keys[1].public_key()))  # not the first one's signature
    third = made(keys[2], predecessor(second, keys[1], keys[2].public_key()))
    assert leads_to(third, fingerprint(second))
    assert not leads_to(third, fingerprint(first))


@pytest.mark.parametrize(
    "value", [b"", b"\xc0", msgspec.msgpack.encode([b"", b""]), msgspec.msgpack.encode([b"x"] * 3)]
)
def test_a_statement_that_is_none_leads_nowhere(keys: list[ec.EllipticCurvePrivateKey], value: bytes) -> None:
    oid = predecessor(b"", keys[0], keys[1].public_key()).oid
    assert not leads_to(made(keys[0], Extension(oid, value)), "0" * 64)


def test_keys_of_another_kind_hand_nothing_on(keys: list[ec.EllipticCurvePrivateKey]) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, other.public_key(), 1)
    builder = builder.not_valid_before(START).not_valid_after(START + datetime.timedelta(days=1))
    old = builder.sign(other, None).public_bytes(serialization.Encoding.DER)
    statement = predecessor(old, keys[0], keys[1].public_key())
    assert not leads_to(made(keys[1], statement), fingerprint(old))
    of_ours = predecessor(made(keys[0]), keys[0], keys[1].public_key())
    strange = builder.add_extension(of_ours, critical=False).sign(other, None)
    assert not leads_to(strange.public_bytes(serialization.Encoding.DER), fingerprint(made(keys[0])))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_damage_anywhere_is_a_certificate_that_leads_nowhere(tmp_path: Path) -> None:
    """Whatever stands in the way, it is an answer and no exception: the dialler says which fingerprint it saw."""
    first, _, present = history(tmp_path, 2)
    rng = random.Random(11)
    led = 0
    for _ in range(2000):
        damaged = bytearray(present)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        led += leads_to(bytes(damaged), fingerprint(first))
    assert led > 0, "what the old keys have not signed may differ: whoever shows it still lacks the new key"
    for cut in range(0, len(present), 7):
        assert not leads_to(present[:cut], fingerprint(first))


def test_no_more_steps_are_taken_than_promised(
    keys: list[ec.EllipticCurvePrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def before(shown: bytes) -> bytes:
        taken.append(shown)
        return shown

    monkeypatch.setattr(certificate_succession, "_before", before)
    assert not leads_to(b"for ever", "0" * 64)
    assert len(taken) == MAX_PREDECESSORS + 1
