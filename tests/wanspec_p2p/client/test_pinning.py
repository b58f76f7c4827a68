from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.certificates import self_made
from tests.support.fake_coordinator import FakeCoordinator, serving
from wanspec_p2p.client import AsyncClient, Client
from wanspec_p2p.client.pinning import pinned_context
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError, Unreachable
from wanspec_p2p.security.self_made import load_or_create_certificate, replace_certificate
from wanspec_p2p.security.tls import certificate_fingerprint


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "a" * 63])
def test_only_a_sha256_is_a_fingerprint(text: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        pinned_context(text)


def test_the_pinned_certificate_is_trusted_and_no_other(tmp_path: Path) -> None:
    cert, key, fingerprint = self_made(tmp_path)
    fake = FakeCoordinator()
    with serving(fake, (cert, key)) as url:
        spelled = ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
        with Client(url, fingerprint=spelled) as client:
            assert client.generate("Why?").text == fake.text
        with Client(url, fingerprint="0" * 64, api_key="secret") as client:
            with pytest.raises(
                RemoteProtocolError, match=f"has the fingerprint {fingerprint}, expected 0000"
            ) as caught:
                client.generate("Why?")
            assert caught.value.code is CloseCode.HANDSHAKE_FAILED
        with Client(url) as client, pytest.raises(Unreachable, match="no authority vouches for"):
            client.models()
    assert len(fake.requests) == 1


async def test_a_certificate_that_came_after_the_pinned_one_is_trusted(tmp_path: Path) -> None:
    files = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    pinned = certificate_fingerprint(files[0])
    replace_certificate(tmp_path, "localhost", clock=ManualClock())
    fake = FakeCoordinator()
    with serving(fake, files) as url:
        with Client(url, fingerprint=pinned) as client:
            assert client.generate("Why?").text == fake.text
        async with AsyncClient(url, fingerprint=pinned) as client:
            assert (await client.generate("Why?")).text == fake.text


async def test_the_asynchronous_client_pins_as_well(tmp_path: Path) -> None:
    cert, key, fingerprint = self_made(tmp_path)
    fake = FakeCoordinator()
    with serving(fake, (cert, key)) as url:
        async with AsyncClient(url, fingerprint=fingerprint) as client:
            assert (await client.generate("Why?")).text == fake.text
        async with AsyncClient(url, fingerprint="0" * 64) as client:
            with pytest.raises(RemoteProtocolError, match="is not the coordinator you were told of"):
                await client.models()
    assert len(fake.requests) == 1
