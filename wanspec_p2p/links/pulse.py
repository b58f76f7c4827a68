"""The pulse of a link: which pings are out, which pong is owed, and the round-trip time and jitter they show."""

from __future__ import annotations

import asyncio

from wanspec_p2p.clock import Clock
from wanspec_p2p.protocol.common_messages import Ping, Pong

__all__ = ["OUTSTANDING_PINGS", "Pulse"]

OUTSTANDING_PINGS = 32
"""Pings remembered; older ones have been out for longer than a link may be silent."""
_RTT_GAIN, _JITTER_GAIN = 1 / 8, 1 / 4  # RFC 6298 §2, alpha and beta


class Pulse:
    """Decides what to send and what an answer means; sends nothing itself.

    Attributes:
        rtt: smoothed round-trip time in seconds (RFC 6298 SRTT); None before the first pong.
        jitter: smoothed distance of samples from it in seconds (RFC 6298 RTTVAR); half of the first sample to begin
            with, as the RFC has it; None before the first pong.
        wake: set while something is to be sent: a pong is owed, or the link wants a ping now.
    """

    def __init__(self, clock: Clock) -> None:
        self.rtt: float | None = None
        self.jitter: float | None = None
        self.wake = asyncio.Event()
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
        if self.rtt is None or self.jitter is None:
            self.rtt, self.jitter = sample, sample / 2
            return
        self.jitter += _JITTER_GAIN * (abs(self.rtt - sample) - self.jitter)  # of the estimate before this sample
        self.rtt += _RTT_GAIN * (sample - self.rtt)

    def forget(self) -> None:
        """The pongs of the pings that are out will come late for reasons of our own."""
        self._sent_at.clear()

    def owe(self, ping: Ping) -> None:
        """The peer pinged; of several unanswered pings only the latest is answered."""
        self._owed = Pong(id=ping.id, at=ping.at)
        self.wake.set()

    def take_owed(self) -> Pong | None:
        self.wake.clear()
        owed, self._owed = self._owed, None
        return owed
