"""The pulse of a link: which pings are out, which pong is owed, and the round-trip time they show."""

from __future__ import annotations

import asyncio

from wanspec_p2p.clock import Clock
from wanspec_p2p.protocol.common_messages import Ping, Pong

__all__ = ["OUTSTANDING_PINGS", "Pulse"]

OUTSTANDING_PINGS = 16
"""Pings remembered; older ones have been out for longer than a link may be silent."""
_RTT_GAIN = 1 / 8  # RFC 6298 §2, alpha


class Pulse:
    """Decides what to send and what an answer means; sends nothing itself.

    Attributes:
        rtt: smoothed round-trip time in seconds; None before the first pong.
        owing: set while a pong is owed.
    """

    def __init__(self, clock: Clock) -> None:
        self.rtt: float | None = None
        self.owing = asyncio.Event()
        self._clock = clock
        self._next = 0
        self._sent_at: dict[int, float] = {}
        self._owed: Pong | None = None

    def ping(self) -> Ping:
        """The next ping to send, now."""
        now = self._clock.monotonic()
        ping = Ping(id=self._next, at=now)
        self._next += 1
        self._sent_at[ping.id] = now
        if len(self._sent_at) > OUTSTANDING_PINGS:
            del self._sent_at[min(self._sent_at)]
        return ping

    def pong(self, pong: Pong) -> None:
        """RFC 6298 §2 smoothing. The time is our own record's; a pong we do not wait for says nothing."""
        sent_at = self._sent_at.pop(pong.id, None)
        if sent_at is None:
            return
        sample = self._clock.monotonic() - sent_at
        self.rtt = sample if self.rtt is None else self.rtt + _RTT_GAIN * (sample - self.rtt)

    def forget(self) -> None:
        """The pongs of the pings that are out will come late for reasons of our own."""
        self._sent_at.clear()

    def owe(self, ping: Ping) -> None:
        """The peer pinged; of several unanswered pings only the latest is answered."""
        self._owed = Pong(id=ping.id, at=ping.at)
        self.owing.set()

    def take_owed(self) -> Pong | None:
        self.owing.clear()
        owed, self._owed = self._owed, None
        return owed
