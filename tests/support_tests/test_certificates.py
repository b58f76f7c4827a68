from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from tests.support.certificates import self_made


def test_the_fingerprint_is_the_certificates(tmp_path: Path) -> None:
    certificate, key, fingerprint = self_made(tmp_path)
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest() == fingerprint
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
