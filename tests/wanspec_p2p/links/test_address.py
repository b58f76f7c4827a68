from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.links.address import split


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("wss://gpu.example:7001/x", "gpu.example"),
        ("wss://[2001:db8::1%eth0]:1", "2001:db8::1%eth0"),
        ("wss://zürich.example", "zürich.example"),
        ("wss://gpu.example.", "gpu.example."),
        ("wss://", ""),
        ("nonsense", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert split(url)[1] == host


@pytest.mark.parametrize(
    "url", ["wss://[", "wss://x:99999", "wss://x:y", "wss://a..b", "wss://.a", f"wss://{'a' * 64}", "wss://\ud800"]
)
def test_what_no_socket_takes_is_none(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        split(url)
    assert not isinstance(caught.value, UnicodeError)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_a_host_that_passes_can_be_looked_up(name: str) -> None:
    try:
        host = split(f"wss://{name}")[1]
    except ValueError:
        return
    host.encode("idna")
