from __future__ import annotations

import pytest

from wanspec_p2p.links.draft_address import DraftAddress, parse


@pytest.mark.parametrize(
    ("address", "host", "port", "secure", "loopback"),
    [
        ("ws://127.0.0.1:1/wanspec/draft", "127.0.0.1", 1, False, True),
        ("ws://localhost/wanspec/draft", "localhost", 80, False, True),
        ("ws://[::1]:1/wanspec/draft", "::1", 1, False, True),
        ("wss://gpu.example/wanspec/draft", "gpu.example", 443, True, False),
        ("wss://127.0.0.1:7/wanspec/draft", "127.0.0.1", 7, True, True),
        ("wss://127.1:22/wanspec/draft", "127.1", 22, True, True),
        ("wss://2130706433:22/wanspec/draft", "2130706433", 22, True, True),
        ("wss://0.0.0.0:22/wanspec/draft", "0.0.0.0", 22, True, True),
        ("wss://[::]:22/wanspec/draft", "::", 22, True, True),
        ("wss://a.localhost:22/wanspec/draft", "a.localhost", 22, True, True),
        ("wss://[::ffff:0.0.0.0]:22/wanspec/draft", "::ffff:0.0.0.0", 22, True, True),
        ("wss://10.0.0.127/wanspec/draft", "10.0.0.127", 443, True, False),
    ],
)
def test_a_targets_door(address: str, host: str, port: int, secure: bool, loopback: bool) -> None:
    place = parse(address)
    assert place == DraftAddress(host, port, secure)
    assert place.loopback is loopback


@pytest.mark.parametrize(
    "address",
    [
        "ws://203.0.113.7:1/wanspec/draft",  # plain text off loopback
        "ws://127.0.0.1.evil.example:1/wanspec/draft",
        "ws://127.0.0.1@evil.example:1/wanspec/draft",
        "ws://user:word@127.0.0.1:1/wanspec/draft",
        "ws://127.0.0.1:1",
        "ws://127.0.0.1:1/api/shutdown?now=1",
        "ws://127.0.0.1:1/api/wanspec/draft",
        "ws://127.0.0.1:1/wanspec/draft/",
        "ws://127.0.0.1:1/wanspec/draft?now=1",
        "ws://127.0.0.1:1/wanspec/draft#here",
        "ws://127.0.0.1:1/?/wanspec/draft",
        "http://127.0.0.1:1/wanspec/draft",
        "wss://gpu.example:99999/wanspec/draft",
        "wss://[::1/wanspec/draft",
        "wss:///wanspec/draft",
        "wss://a..b/wanspec/draft",  # a host that no codec takes
        "wss://.gpu.example/wanspec/draft",
        f"wss://{'a' * 64}.example/wanspec/draft",
        "nonsense",
    ],
)
def test_anything_else_is_none(address: str) -> None:
    assert parse(address) is None
