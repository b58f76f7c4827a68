from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused
from wanspec_p2p.links.closing import MAX_CLOSE_REASON_BYTES, close_reason, ended, ends_a_service, unproved


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006])
def test_an_end_without_blame(code: int) -> None:
    error = ended(code, "drained")
    assert isinstance(error, LinkClosed)
    assert str(error) == "drained"
    assert str(ended(code)) == "the link is closed"


@pytest.mark.parametrize("code", [1002, 1008, 1011, 1013, CloseCode.LEASE_REFUSED, 4999])
def test_a_refusal(code: int) -> None:
    error = ended(code, "no lease")
    assert isinstance(error, PeerRefused)
    assert (error.code, error.reason, str(error)) == (code, "no lease", "no lease")
    assert str(ended(code)) == f"the peer closed the link with code {code} and no reason"


@given(st.text())
def test_a_reason_is_cut_at_a_characters_boundary(reason: str) -> None:
    cut = close_reason(reason)
    assert len(cut.encode()) <= MAX_CLOSE_REASON_BYTES
    clean = reason.encode(errors="replace").decode()
    assert clean.startswith(cut)
    if len(clean.encode()) > MAX_CLOSE_REASON_BYTES:
        assert len(cut.encode()) > MAX_CLOSE_REASON_BYTES - 4


def test_a_reason_that_fits_is_left_alone() -> None:
    assert close_reason("ü" * 61) == "ü" * 61
    assert close_reason("ü" * 62) == "ü" * 61


@pytest.mark.parametrize("code", [1002, 1007, 1008, 1009, 1011, 1013, 4000, 4001])
def test_a_refusal_of_the_handshake_is_one(code: int) -> None:
    refusal = PeerRefused(code, "not so")
    assert unproved(refusal) is refusal


@pytest.mark.parametrize("code", [4002, 4003, 4004, 4005, 4006, 4007, 4999, 1003, 3000])
def test_what_only_a_proved_peer_may_say_is_not_believed_before(code: int) -> None:
    error = unproved(PeerRefused(code, "go away"))
    assert isinstance(error, LinkClosed)
    assert str(error) == f"whoever listens there has proved no key, and closed with code {code}: go away"


@pytest.mark.parametrize("enrolled", [False, True])
def test_which_refusals_end_a_service(enrolled: bool) -> None:
    final = {CloseCode.REPLACED, CloseCode.VERSION_MISMATCH}
    assert ends_a_service(PeerRefused(CloseCode.REPLACED, ""), final, enrolled=enrolled)
    assert not ends_a_service(PeerRefused(CloseCode.JOIN_REFUSED, ""), final, enrolled=enrolled)
    assert ends_a_service(PeerRefused(CloseCode.VERSION_MISMATCH, ""), final, enrolled=enrolled) is not enrolled
