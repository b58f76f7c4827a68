"""What the end of a transport means, in one place for every kind of transport: close codes to exceptions and back."""

from __future__ import annotations

from collections.abc import Collection

from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused

__all__ = ["MAX_CLOSE_REASON_BYTES", "close_reason", "ended", "ends_a_service", "may_be_a_strangers", "unproved"]

MAX_CLOSE_REASON_BYTES = 123
"""RFC 6455 §5.5: a control frame has at most 125 bytes, two of which are the code."""

_NO_BLAME = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.GOING_AWAY,
        1005,  # a close frame without a code
        1006,  # no close frame at all
    }
)
_IN_THE_HANDSHAKE = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.INTERNAL_ERROR,
        CloseCode.TRY_AGAIN_LATER,
        CloseCode.VERSION_MISMATCH,
        CloseCode.HANDSHAKE_FAILED,
    }
)
"""Refusals that a listener may have for a dialler before either has proved its key. Whatever depends on who the dialler
is comes after."""


def close_reason(reason: str) -> str:
    """As much of `reason` as a close frame carries, cut at a character's boundary."""
    return reason.encode(errors="replace")[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")


def ended(code: int, reason: str = "") -> LinkClosed | PeerRefused:
    """What to raise when the peer ended a transport with this code; 1006 where it ended without one."""
    if code in _NO_BLAME:
        return LinkClosed(reason or "the link is closed")
    return PeerRefused(code, reason)


def may_be_a_strangers(refusal: PeerRefused) -> bool:
    """It is one of those that a listener has before it has proved its key."""
    return refusal.code in _IN_THE_HANDSHAKE


def unproved(refusal: PeerRefused) -> LinkClosed | PeerRefused:
    """What a refusal is worth that came before the listener proved its key: whoever has taken its address could say
    the same, so nothing but what the handshake itself is refused for.
    """
    if may_be_a_strangers(refusal):
        return refusal
    return LinkClosed(f"whoever listens there has proved no key, and closed with code {refusal.code}: {refusal}")


def ends_a_service(refusal: PeerRefused, final: Collection[int], *, enrolled: bool) -> bool:
    """Whether another try would change nothing.

    Args:
        final: the codes of such refusals.
        enrolled: the coordinator has taken us in before. Then that it speaks another version is no reason to end: it is
            said before a key is proved, and perhaps not by the coordinator.
    """
    return refusal.code in final and not (enrolled and refusal.code == CloseCode.VERSION_MISMATCH)
