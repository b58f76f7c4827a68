from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links.discovery import SERVICE_TYPE, Beacon, advertise, browse
from wanspec_p2p.types import PeerId

BEACON = Beacon(PeerId("a2" * 16), "0f" * 32, "wss://coordinator.example:7001")
LOOPBACK = ["127.0.0.1"]


@pytest.mark.parametrize(
    "beacon",
    [
        BEACON,
        Beacon(BEACON.peer, None, "ws://127.0.0.1:7001"),
        Beacon(BEACON.peer, BEACON.certificate, "wss://[2001:db8::1]:7001"),
    ],
)
def test_a_beacon_survives_the_journey(beacon: Beacon) -> None:
    service = beacon.to_service()
    assert Beacon.from_properties(service.properties) == beacon
    assert (service.type, service.name) == (SERVICE_TYPE, f"{beacon.peer}.{SERVICE_TYPE}")
    assert service.port == 7001


def test_the_port_that_a_url_leaves_out() -> None:
    assert Beacon(BEACON.peer, BEACON.certificate, "wss://192.0.2.1").to_service().port == 443


@pytest.mark.parametrize(
    "url", ["http://x", "wss://", "wss://x y", "wss://" + "x" * 300, "wss://zürich.example", "wss://x:99999"]
)
def test_what_cannot_be_announced(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be announced"):
        Beacon(BEACON.peer, BEACON.certificate, url).to_service()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {b"peer": b"a2" * 16},
        {b"peer": None, b"url": None},
        {b"peer": b"A2" * 16, b"url": b"wss://x"},
        {b"peer": b"a2" * 16, b"url": b"http://x"},
        {b"peer": b"a2" * 16, b"url": b"wss://x\x1b[2J"},
        {b"peer": b"a2" * 16, b"url": b"wss://x\n"},
        {b"peer": b"a2" * 16, b"url": b"wss://" + b"x" * 300},
        {b"peer": b"a2" * 16, b"url": b"wss://x", b"certificate": b"zz"},
        {b"peer": b"a2" * 16, b"url": b"wss://\xff"},
        {b"peer": b"a2" * 16, b"url": b"wss://x:99999"},
        {b"peer": b"a2" * 16, b"url": b"wss://["},
        {b"peer": b"a2" * 16, b"url": b"wss://a..b"},
        {b"peer": b"a2" * 16, b"url": b"wss://" + b"a" * 64},
        {b"peer": b"a2" * 16, b"url": b"wss://:1"},
    ],
)
def test_what_is_not_a_beacon(properties: dict[bytes, bytes | None]) -> None:
    assert Beacon.from_properties(properties) is None


@given(st.dictionaries(st.binary(max_size=12), st.none() | st.binary(max_size=80)))
def test_junk_is_not_a_beacon(properties: dict[bytes, bytes | None]) -> None:
    assert Beacon.from_properties(properties) is None


@pytest.mark.parametrize("url", ["wss://192.0.2.1:7001", "wss://coordinator.example:7001"])
async def test_a_coordinator_is_found_on_loopback(url: str) -> None:
    beacon = Beacon(BEACON.peer, BEACON.certificate, url)
    async with asyncio.timeout(30):
        try:
            async with advertise(beacon, interfaces=LOOPBACK):
                assert await browse(10, until=BEACON.peer, interfaces=LOOPBACK) == [beacon]
        except ConfigError as error:
            pytest.skip(f"no multicast here: {error}")


async def test_a_beacon_that_is_passed_over_does_not_hide_the_next() -> None:
    other = Beacon(PeerId("b3" * 16), None, "ws://127.0.0.1:7002")
    async with asyncio.timeout(30):
        try:
            async with advertise(BEACON, interfaces=LOOPBACK), advertise(other, interfaces=LOOPBACK):
                found = await browse(10, until=other.peer, but={BEACON.url}, interfaces=LOOPBACK)
        except ConfigError as error:
            pytest.skip(f"no multicast here: {error}")
    assert found == [other]


async def test_browsing_ends_though_nobody_is_there() -> None:
    async with asyncio.timeout(30):
        try:
            found = await browse(0.05, until=PeerId("b3" * 16), interfaces=LOOPBACK)
        except ConfigError as error:
            pytest.skip(f"no multicast here: {error}")
    assert PeerId("b3" * 16) not in [beacon.peer for beacon in found]


@pytest.mark.parametrize("fault", [OSError(19, "No such device"), RuntimeError("No interfaces to listen on")])
async def test_no_multicast_is_a_users_line(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(**_: object) -> None:
        raise fault

    monkeypatch.setattr("wanspec_p2p.links.discovery.AsyncZeroconf", no_network)
    with pytest.raises(ConfigError, match="no multicast on the local network: No "):
        await browse(0.05, interfaces=LOOPBACK)
