"""How a self-made certificate gives way to the next: the old one's key signs the new one's, and the new one says so.

What is pinned is the SHA-256 of a certificate. A new certificate carries, in an extension of its own, the one before
it and that one's signature over the new key; the one before carries its own predecessor in the same way. So whoever
pinned one of them finds, in what a listener shows, the way from the pin to the new key, before a byte is said and
without a message: docs/decisions/0021-certificates-are-handed-on.md.
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["MAX_PREDECESSORS", "leads_to", "predecessor"]

MAX_PREDECESSORS = 8
"""Steps a dialler follows. Who slept through more changes has to be told the new fingerprint."""
_OID = x509.ObjectIdentifier("2.25.255027269574401211198079620039124276498")
"""Under ITU-T X.667, which needs no registration: the UUID bfdc772b-b857-4fb3-9426-f9f78b395512."""
_SIGNS = b"wanspec certificate succession: whoever trusts this certificate trusts this key as well\0"
"""Longer than the 64 bytes of nonces that begin what the same key signs in TLS 1.2, of which a dialler chooses half."""
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class _Predecessor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The value of the extension, as msgpack."""

    certificate: bytes  # DER
    signature: bytes  # by its key


def predecessor(
    certificate: bytes, key: ec.EllipticCurvePrivateKey, successor: ec.EllipticCurvePublicKey
) -> x509.UnrecognizedExtension:
    """What a new certificate says of the one before.

    Args:
        certificate: the one before (DER), and its key.
        successor: the new certificate's key.
    """
    signature = key.sign(_signed(certificate, successor), _ALGORITHM)
    return x509.UnrecognizedExtension(_OID, msgspec.msgpack.encode(_Predecessor(certificate, signature)))


def leads_to(shown: bytes, pinned: str) -> bool:
    """Whether a certificate (DER) is the one that is pinned (SHA-256 in hex), or came after it.

    `shown` may be anything: who shows it need not be known, and every step is checked before the next is looked at.
    """
    for _ in range(MAX_PREDECESSORS + 1):
        if hashlib.sha256(shown).hexdigest() == pinned:
            return True
        before = _before(shown)
        if before is None:
            return False
        shown = before
    return False


def _before(shown: bytes) -> bytes | None:
    """The predecessor that a certificate names, if it has signed this one's key."""
    try:
        certificate = x509.load_der_x509_certificate(shown)
        extension = certificate.extensions.get_extension_for_oid(_OID).value
        assert isinstance(extension, x509.UnrecognizedExtension)  # of an OID that nobody but us knows
        said = msgspec.msgpack.decode(extension.value, type=_Predecessor)
        key = x509.load_der_x509_certificate(said.certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        key.verify(said.signature, _signed(said.certificate, certificate.public_key()), _ALGORITHM)
    except (x509.ExtensionNotFound, InvalidSignature, msgspec.DecodeError, *_UNREADABLE):
        return None
    return said.certificate


_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def _signed(certificate: bytes, successor: object) -> bytes:
    """What is signed: for what, by which certificate, and the new key."""
    if not isinstance(successor, ec.EllipticCurvePublicKey):
        raise ValueError("only keys of this kind are handed on")
    key = successor.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _SIGNS + hashlib.sha256(certificate).digest() + key
