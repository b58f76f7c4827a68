"""What the end of a transport means, in one place for every kind of transport: close codes to exceptions and back."""

from __future__ import annotations

from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused

__all__ = ["MAX_CLOSE_REASON_BYTES", "close_reason", "ended"]

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


def close_reason(reason: str) -> str:
    """As much of `reason` as a close frame carries, cut at a character's boundary."""
    return reason.encode(errors="replace")[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")


def ended(code: int, reason: str = "") -> LinkClosed | PeerRefused:
    """What to raise when the peer ended a transport with this code; 1006 where it ended without one."""
    if code in _NO_BLAME:
        return LinkClosed(reason or "the link is closed")
    return PeerRefused(code, reason)
