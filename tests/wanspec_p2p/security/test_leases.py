from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import MAX_LEASE_CHARACTERS, LeaseClaims, check, issue

NOW = 1_800_000_000
COORDINATOR, NODE, TARGET, STRANGER = (Identity.generate() for _ in range(4))
CLAIMS = LeaseClaims(
    jti="lease-1",
    node=NODE.peer_id,
    target=TARGET.peer_id,
    owner="University of X",
    site="x",
    pool="default",
    model="smollm2-draft",
    digest="12" * 32,
    tokenizer="34" * 32,
    addresses=("wss://target.example:7002/wanspec/draft",),
    certificate="56" * 32,
    issued=NOW,
    expires=NOW + 600,
)
LEASE = issue(COORDINATOR, CLAIMS)


def _check(lease: str, *, at: float = NOW + 1.0, **changes: Any) -> LeaseClaims:
    arguments: dict[str, Any] = {
        "coordinator": COORDINATOR.public_key,
        "clock": ManualClock(at),
        "node": NODE.peer_id,
        "target": TARGET.peer_id,
    }
    return check(lease, **(arguments | changes))


def _refusal(lease: str, **changes: Any) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        _check(lease, **changes)
    assert caught.value.code is CloseCode.LEASE_REFUSED
    return caught.value.reason


def _segment(content: object) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _payload(**changes: object) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(LEASE.split(".")[1] + "=="))
    return {key: value for key, value in (payload | changes).items() if value is not ...}


def _signed(payload: dict[str, Any], *, by: Identity = COORDINATOR, typ: str = "wanspec-lease+jwt") -> str:
    return jwt.encode(payload, by.private_key, algorithm="EdDSA", headers={"typ": typ})


def _hs256_with_the_public_key() -> str:
    signed = f"{_segment({'alg': 'HS256', 'typ': 'wanspec-lease+jwt'})}.{_segment(_payload())}"
    return f"{signed}.{_segment(hmac.digest(COORDINATOR.public_key, signed.encode(), hashlib.sha256))}"


def test_a_lease_says_what_it_was_given() -> None:
    assert _check(LEASE) == CLAIMS
    assert _check(LEASE, node=None, target=None) == CLAIMS
    on_loopback = msgspec.structs.replace(CLAIMS, certificate=None, addresses=("ws://127.0.0.1:1/wanspec/draft",))
    assert _check(issue(COORDINATOR, on_loopback)) == on_loopback


def test_its_claims_are_those_of_rfc_7519() -> None:
    payload = _payload()
    assert (payload["iss"], payload["sub"], payload["aud"]) == (COORDINATOR.peer_id, NODE.peer_id, TARGET.peer_id)
    assert (payload["iat"], payload["exp"], payload["jti"]) == (NOW, NOW + 600, "lease-1")
    assert jwt.get_unverified_header(LEASE) == {"alg": "EdDSA", "typ": "wanspec-lease+jwt"}


@pytest.mark.parametrize(
    ("at", "leeway", "fault"),
    [
        (NOW - 30.0, 30.0, None),
        (NOW - 30.5, 30.0, "not valid yet"),
        (NOW + 629.5, 30.0, None),
        (NOW + 630.0, 30.0, "has expired"),
        (NOW + 600.0, 0.0, "has expired"),
        (NOW + 1499.0, 900.0, None),  # honoured longer while the coordinator is away
    ],
)
def test_time_is_our_clocks(at: float, leeway: float, fault: str | None) -> None:
    if fault is None:
        assert _check(LEASE, at=at, leeway=leeway) == CLAIMS
    else:
        assert fault in _refusal(LEASE, at=at, leeway=leeway)


@pytest.mark.parametrize(
    ("lease", "reason"),
    [
        pytest.param(lambda: _signed(_payload(), by=STRANGER), "not signed by this coordinator", id="another signer"),
        pytest.param(
            lambda: _signed(_payload(iss=STRANGER.peer_id)), "not a lease of this coordinator", id="another issuer"
        ),
        pytest.param(
            lambda: f"{_segment({'alg': 'none', 'typ': 'wanspec-lease+jwt'})}.{_segment(_payload())}.",
            "not signed by this coordinator",
            id="alg none",
        ),
        pytest.param(_hs256_with_the_public_key, "not signed by this coordinator", id="HS256 with the public key"),
        pytest.param(
            lambda: ".".join([LEASE.split(".")[0], _segment(_payload(exp=NOW + 9999)), LEASE.split(".")[2]]),
            "not signed by this coordinator",
            id="tampered",
        ),
        pytest.param(lambda: _signed(_payload(), typ="JWT"), "not a lease of this coordinator", id="another type"),
        pytest.param(lambda: LEASE + "A" * MAX_LEASE_CHARACTERS, "longer than 16384 characters", id="oversized"),
        pytest.param(lambda: "", "malformed", id="empty"),
        pytest.param(lambda: "a.b.c", "malformed", id="junk"),
        pytest.param(lambda: LEASE[: len(LEASE) // 2], "malformed", id="cut off"),
        pytest.param(lambda: LEASE + "ü", "malformed", id="not ASCII"),
        pytest.param(lambda: _segment(b"[" * 2000) + ".e30.AA", "malformed", id="deeply nested"),
        pytest.param(lambda: _signed(_payload(exp="never")), "one of its claims", id="expiry is a word"),
        pytest.param(lambda: _signed(_payload(exp=float(NOW))), "one of its claims", id="expiry is a float"),
        pytest.param(lambda: _signed(_payload(aud=[TARGET.peer_id])), "one of its claims", id="several audiences"),
        pytest.param(lambda: _signed(_payload(addresses=[])), "one of its claims", id="no address"),
        pytest.param(lambda: _signed(_payload(addresses=["http://x"])), "one of its claims", id="a web address"),
        pytest.param(lambda: _signed(_payload(admin=True)), "one of its claims", id="an unknown claim"),
        *(
            pytest.param(lambda claim=claim: _signed(_payload(**{claim: ...})), "lacks a claim", id=f"no {claim}")
            for claim in ("jti", "sub", "aud", "iat", "exp", "digest", "tokenizer", "addresses", "certificate")
        ),
    ],
)
def test_what_is_not_a_lease_is_refused(lease: Callable[[], str], reason: str) -> None:
    assert reason in _refusal(lease())


def test_a_lease_is_for_one_node_one_target_and_one_coordinator() -> None:
    assert "for another node" in _refusal(LEASE, node=STRANGER.peer_id)
    assert "for another target" in _refusal(LEASE, target=STRANGER.peer_id)
    assert "not signed by this coordinator" in _refusal(LEASE, coordinator=STRANGER.public_key)


@given(st.integers(0, len(LEASE) - 2), st.sampled_from("ABCxyz019-_."))
def test_no_changed_character_goes_unnoticed(position: int, character: str) -> None:
    changed = LEASE[:position] + character + LEASE[position + 1 :]
    if changed != LEASE:
        _refusal(changed)


@given(st.text(max_size=300))
def test_junk_never_raises_anything_else(lease: str) -> None:
    _refusal(lease)


@pytest.mark.parametrize("letter", ["o", "\U0001f600", "\x01"], ids=["ascii", "emoji", "control"])
@pytest.mark.parametrize("sign", ["a", "\\"])
def test_a_lease_fits_where_it_travels(letter: str, sign: str) -> None:
    """Whatever a node and a target call themselves: a node that is sent a longer one would have to hang up."""
    assert MAX_LEASE_CHARACTERS == limits.MAX_LEASE
    name = letter * limits.MAX_NAME
    widest = msgspec.structs.replace(
        CLAIMS,
        owner=name,
        site=name,
        pool=name,
        model=name,
        addresses=tuple(f"wss://{sign}".ljust(limits.MAX_URL - 1, sign) + str(i) for i in range(limits.MAX_ADDRESSES)),
        certificate="c" * 64,
        expires=2**53,
    )
    assert len(widest.addresses[0]) == limits.MAX_URL
    lease = issue(COORDINATOR, widest)
    assert len(lease) <= MAX_LEASE_CHARACTERS
    assert _check(lease) == widest
