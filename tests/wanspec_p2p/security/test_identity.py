from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wanspec_p2p.errors import CloseCode, RemoteProtocolError, UsageError
from wanspec_p2p.security.identity import Identity, peer_id, verify


def test_a_peer_is_named_after_its_key() -> None:
    identity = Identity.generate()
    assert len(identity.public_key) == 32
    assert identity.peer_id == peer_id(identity.public_key)
    digest = hashlib.blake2b(identity.public_key, digest_size=20).digest()
    assert base64.b32decode(identity.peer_id.upper()) == digest
    assert peer_id(bytes(32)) == "aiil5jvbhf4x25fkk5spwitdtdyh6qwe"  # pinned: a changed rule renames every peer
    assert Identity.generate().peer_id != identity.peer_id


def test_signatures() -> None:
    identity, stranger = Identity.generate(), Identity.generate()
    signature = identity.sign(b"message")
    verify(identity.public_key, signature, b"message")
    for key, sign, message in (
        (identity.public_key, signature, b"massage"),
        (stranger.public_key, signature, b"message"),
        (identity.public_key, bytes(64), b"message"),
        (identity.public_key, b"short", b"message"),
        (b"short", signature, b"message"),
        (b"\xff" * 32, signature, b"message"),  # not a point of the curve
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            verify(key, sign, message)
        assert caught.value.code is CloseCode.HANDSHAKE_FAILED


def test_an_identity_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "identity.pem"
    first, again = Identity.load_or_create(path), Identity.load_or_create(path)
    assert again.peer_id == first.peer_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verify(first.public_key, again.sign(b"m"), b"m")
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_to_load_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data" / "identity.pem"
    assert Identity.load(path) is None
    assert not path.parent.exists()
    kept = Identity.load_or_create(path)
    again = Identity.load(path)
    assert again is not None and again.peer_id == kept.peer_id
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_holds_something_else_is_not_replaced(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"not a key", other):
        path = tmp_path / "identity.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="does not hold an Ed25519 private key"):
            Identity.load_or_create(path)
        with pytest.raises(UsageError, match="does not hold an Ed25519 private key"):
            Identity.load(path)
        assert path.read_bytes() == content


def test_the_private_key_is_not_shown() -> None:
    identity = Identity.generate()
    assert repr(identity) == f"Identity({identity.peer_id})"


def test_a_key_takes_the_place_of_another_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    before, after = Identity.load_or_create(path), Identity.generate()
    after.replace(path)
    assert Identity.load_or_create(path).peer_id == after.peer_id != before.peer_id
    assert Identity.from_pem(path.read_bytes()).public_key == after.public_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        Identity.from_pem(pem)
