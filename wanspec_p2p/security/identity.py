"""Who a peer is: an Ed25519 key pair (RFC 8032), and the name that follows from it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wanspec_p2p.errors import CloseCode, RemoteProtocolError, UsageError
from wanspec_p2p.security.files import create_once, read_private, write_whole
from wanspec_p2p.types import PeerId

__all__ = ["Identity", "peer_id", "verify"]

_WHAT = "identity key"


def peer_id(public_key: bytes) -> PeerId:
    """The name of a peer: 32 lower-case base32 characters of the BLAKE2b-160 of its public key."""
    digest = hashlib.blake2b(public_key, digest_size=20).digest()
    return PeerId(base64.b32encode(digest).decode().lower())


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check a peer's signature.

    Raises:
        RemoteProtocolError: HANDSHAKE_FAILED; the signature is not of this key over this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise RemoteProtocolError("the signature is not valid", CloseCode.HANDSHAKE_FAILED) from error


class Identity:
    """Our own key pair. The private half never leaves this object but for its file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.peer_id = peer_id(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity kept at `path` (PEM, PKCS #8), made on first use.

        Raises:
            UsageError: the file is open to others, unreadable, or holds something else.
        """
        return cls._kept(path, create_once(path, cls.generate()._pem(), what=_WHAT))

    @classmethod
    def load(cls, path: Path) -> Identity | None:
        """The same where there is one; None, and nothing is made, where there is none. Raises as `load_or_create`."""
        pem = read_private(path, what=_WHAT)
        return None if pem is None else cls._kept(path, pem)

    @classmethod
    def _kept(cls, path: Path, pem: bytes) -> Identity:
        try:
            return cls.from_pem(pem)
        except ValueError as error:
            raise UsageError(_not_a_key(path)) from error

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """Raises ValueError where this is no Ed25519 private key in PEM form."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not a private key that can be read") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("a private key of another kind")
        return cls(key)

    def replace(self, path: Path) -> None:
        """Put this key where another was kept. Raises OSError; the other one is then still there."""
        write_whole(path, self._pem(), private=True)

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """For signing through a library that wants the key itself (leases)."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """64 bytes. Callers prefix `message` with what it is for, so that no signature serves two purposes."""
        return self._key.sign(message)

    def _pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def _not_a_key(path: Path) -> str:
    return (
        f"{path} does not hold an Ed25519 private key: restore it from a copy, or move it away to start with a new "
        "identity (which has to be enrolled again)"
    )
