"""TLS to a coordinator with a self-made certificate: trust one by its SHA-256, before a byte is sent; and what its key
has signed to come after it (security/certificate_succession.py).

The standard library lets a context name the class of its connections (`SSLContext.sslsocket_class`,
`sslobject_class`); ours compare the certificate at the end of the handshake, so no HTTP layer above can forget to.
"""

from __future__ import annotations

import hashlib
import ssl

from wanspec_p2p.errors import ConfigError

__all__ = ["CertificateMismatch", "pinned_context"]


class CertificateMismatch(ssl.SSLError):
    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"its certificate has the fingerprint {found}, expected {expected}")
        self.expected, self.found = expected, found

    def __str__(self) -> str:
        return str(self.args[0])


def pinned_context(fingerprint: str) -> ssl.SSLContext:
    """A context that accepts the certificate whose DER encoding has this SHA-256, and those it was replaced by.

    Args:
        fingerprint: 64 hexadecimal digits; colons and capitals, as other tools print them, are fine.

    Raises:
        ConfigError: it is not a SHA-256.
    """
    expected = fingerprint.replace(":", "").strip().lower()
    if len(expected) != 64 or not set(expected) <= set("0123456789abcdef"):
        raise ConfigError("a certificate fingerprint is a SHA-256: 64 hexadecimal digits")

    def check(certificate: bytes | None) -> None:
        found = hashlib.sha256(certificate or b"").hexdigest()
        if found == expected:
            return
        from wanspec_p2p.security.certificate_succession import leads_to  # only a change has to read certificates

        if not leads_to(certificate or b"", expected):
            raise CertificateMismatch(expected, found)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self.getpeercert(binary_form=True))

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert(binary_form=True))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The pin replaces the chain and the name: a self-made certificate has neither.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = PinnedSocket
    context.sslobject_class = PinnedObject
    return context
