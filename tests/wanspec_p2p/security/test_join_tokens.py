from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ExitCode, JoinTokenError
from wanspec_p2p.security.identity import peer_id
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Role

TOKEN = JoinToken(
    url="wss://coordinator.example:7001",
    coordinator=bytes(range(32)),
    certificate="ab" * 32,
    secret="hush-hush",
    role=Role.NODE,
    pool="default",
    expires=1_800_003_600,
)


def _inside(**changes: object) -> str:
    body = TOKEN.encode().partition(".")[2]
    wire = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    wire.update(changes)
    return "wanspec-join-1." + base64.urlsafe_b64encode(json.dumps(wire).encode()).decode().rstrip("=")


def test_round_trip() -> None:
    text = TOKEN.encode()
    assert text.startswith("wanspec-join-1.")
    assert JoinToken.decode(text) == TOKEN
    assert TOKEN.peer_id == peer_id(bytes(range(32)))
    loopback = dataclasses.replace(TOKEN, url="ws://127.0.0.1:7001", certificate=None, role=Role.TARGET)
    assert JoinToken.decode(loopback.encode()) == loopback


def test_a_paste_that_a_terminal_has_wrapped_is_read() -> None:
    text = TOKEN.encode()
    assert JoinToken.decode(f"  {text[:70]}\r\n {text[70:140]}\n{text[140:]}\n") == TOKEN


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "this is not a join token"),
        ("eyJhbGciOiJFZERTQSJ9.e30.x", "this is not a join token"),
        (TOKEN.encode()[:14], "cut off or damaged: paste the whole line"),
        (TOKEN.encode()[:15], "cut off or damaged: paste the whole line"),
        (TOKEN.encode()[:-1], "cut off or damaged: paste the whole line"),
        (TOKEN.encode()[:-40], "cut off or damaged: paste the whole line"),
        (TOKEN.encode() + "!", "cut off or damaged: paste the whole line"),
        ("wanspec-join-1.ü", "cut off or damaged: paste the whole line"),
        ("wanspec-join-1." + base64.urlsafe_b64encode(b"[" * 3000).decode(), "join token is"),
        (TOKEN.encode().replace("join-1.", "join-2."), "a format this release does not know"),
        ("wanspec-join-1." + "A" * 5000, "longer than 4096 characters"),
        (_inside(role="coordinator"), "is damaged"),
        (_inside(url="http://x"), "is damaged"),
        (_inside(url="wss://x y"), "is damaged"),
        (_inside(cert="zz"), "is damaged"),
        (_inside(key="AAAA"), "is damaged"),
        (_inside(extra=1), "is damaged"),
        (_inside(exp="soon"), "is damaged"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, line: str) -> None:
    with pytest.raises(JoinTokenError, match=line) as caught:
        JoinToken.decode(text)
    assert "\n" not in str(caught.value)
    assert "hush-hush" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.REFUSED


@given(st.integers(0, len(TOKEN.encode()) - 1))
def test_no_truncated_token_is_taken_for_a_whole_one(length: int) -> None:
    with pytest.raises(JoinTokenError):
        JoinToken.decode(TOKEN.encode()[:length])


@given(st.text(max_size=200) | st.text(max_size=100).map(lambda text: "wanspec-join-1." + text))
def test_junk_never_raises_anything_else(text: str) -> None:
    with pytest.raises(JoinTokenError):
        JoinToken.decode(text)


def test_check() -> None:
    clock = ManualClock(1_800_000_000.0)
    TOKEN.check(clock, Role.NODE)
    with pytest.raises(JoinTokenError, match="admits a node, not a target"):
        TOKEN.check(clock, Role.TARGET)
    clock.advance(3599.5)
    TOKEN.check(clock, Role.NODE)
    clock.advance(0.5)
    with pytest.raises(JoinTokenError, match="has expired: ask the coordinator's operator"):
        TOKEN.check(clock, Role.NODE)


def test_the_secret_is_not_shown() -> None:
    assert "hush-hush" not in repr(TOKEN)
