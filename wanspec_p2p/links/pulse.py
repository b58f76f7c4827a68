"""The pulse of a link: which pings are out, which pong is owed, and the round-trip time and jitter they show."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.links.allowance import Allowance
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Ping, Pong

__all__ = ["OUTSTANDING_PINGS", "STRAY_PONGS", "Pulse"]

OUTSTANDING_PINGS = 32
"""Pings remembered; older ones have been out for longer than a link may be silent."""
_ID_BITS = 52
"""Of a ping's id, which nobody can guess: a pong sent before its ping came would be taken for a shorter way. One more
bit is always set: ids, and the frames they are in, have one length."""
STRAY_PONGS = 32
"""How many more pongs than pings a peer may send. An honest one sends none: each is guesswork."""
_MANY_IGNORED = 8
"""As many have to be out that nobody answered, however much time has passed: with fewer we may have stood still."""
_RTT_GAIN, _JITTER_GAIN = 1 / 8, 1 / 4  # RFC 6298 §2, alpha and beta


class Pulse:
    """Decides what to send and what an answer means; sends nothing itself.

    Args:
        nonce: makes random bytes, for the ids of pings.

    Attributes:
        rtt: smoothed round-trip time in seconds (RFC 6298 SRTT); None before the first pong.
        jitter: smoothed distance of samples from it in seconds (RFC 6298 RTTVAR); half of the first sample to begin
            with, as the RFC has it; None before the first pong.
        wake: set while something is to be sent: a pong is owed, or the link wants a ping now.
    """

    def __init__(self, clock: Clock, nonce: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self.rtt: float | None = None
        self.jitter: float | None = None
        self.wake = asyncio.Event()
        self._clock, self._nonce = clock, nonce
        self._unanswered = 0  # pings, whatever the pongs answered
        self._sent_at: dict[int, float] = {}  # the oldest first
        self._ignored: dict[int, float] = {}  # those that want a pong, since one of them was answered, to when
        self._owed: Pong | None = None
        self._theirs = Allowance(limits.PINGS_AT_ONCE, limits.PINGS_A_SECOND)

    def ping(self, *, wants_pong: bool = False) -> Ping:
        """The next ping to send, now.

        Args:
            wants_pong: whether it is held against the peer (`check`) if neither this one nor any later one is answered.
        """
        now = self._clock.monotonic()
        drawn = int.from_bytes(self._nonce(8), "big") % 2**_ID_BITS
        ping = Ping(id=2**_ID_BITS + drawn, at=now)
        self._unanswered += 1
        self._sent_at[ping.id] = now
        if len(self._sent_at) > OUTSTANDING_PINGS:
            del self._sent_at[next(iter(self._sent_at))]
        if wants_pong:
            self._ignored[ping.id] = now
        return ping

    def pong(self, pong: Pong) -> None:
        """RFC 6298 §2 smoothing. The time is our own record's; a pong we do not wait for says nothing.

        Raises:
            RemoteProtocolError: there have been far more pongs than pings.
        """
        self._unanswered -= 1
        if self._unanswered < -STRAY_PONGS:
            raise RemoteProtocolError("more Pongs than Pings")
        if pong.id in self._ignored:
            self._ignored.clear()
        sent_at = self._sent_at.pop(pong.id, None)
        if sent_at is None:
            return
        sample = self._clock.monotonic() - sent_at
        if self.rtt is None or self.jitter is None:
            self.rtt, self.jitter = sample, sample / 2
            return
        self.jitter += _JITTER_GAIN * (abs(self.rtt - sample) - self.jitter)  # of the estimate before this sample
        self.rtt += _RTT_GAIN * (sample - self.rtt)

    def check(self) -> None:
        """A peer of which frames come, and none of them answers a ping, hides how far away it is.

        Raises:
            RemoteProtocolError: it has done so for `PONG_SECONDS`.
        """
        if len(self._ignored) < _MANY_IGNORED:
            return
        if self._clock.monotonic() - next(iter(self._ignored.values())) >= limits.PONG_SECONDS:
            reason = f"Pings were left unanswered for {limits.PONG_SECONDS:g} s"
            raise RemoteProtocolError(reason, CloseCode.POLICY_VIOLATION)

    def forget(self) -> None:
        """The pongs of the pings that are out will come late for reasons of our own."""
        self._sent_at.clear()
        self._ignored.clear()

    def stopped_reading(self) -> None:
        self._theirs.refill(self._clock.monotonic())

    def reads_again(self) -> None:
        """After `stopped_reading`: the pings of all that time come at once."""
        self._theirs.refill(self._clock.monotonic(), unread=True)

    def owe(self, ping: Ping) -> None:
        """The peer pinged; of several unanswered pings only the latest is answered.

        Raises:
            RemoteProtocolError: it pings more often than anybody needs to.
        """
        if not self._theirs.take(self._clock.monotonic()):
            raise RemoteProtocolError("more Pings than the protocol allows", CloseCode.POLICY_VIOLATION)
        self._owed = Pong(id=ping.id, at=ping.at)
        self.wake.set()

    def take_owed(self) -> Pong | None:
        self.wake.clear()
        owed, self._owed = self._owed, None
        return owed
