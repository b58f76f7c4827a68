"""Peers that are not asked for a while. Pure; time is an argument."""

from __future__ import annotations

from wanspec_p2p.types import PeerId

__all__ = ["MAX_ABSENT", "Absence"]

MAX_ABSENT = 1024
"""Peers that are remembered for not being asked."""


class Absence:
    """Args:
    seconds: for how long the first time.
    longest: and at most, where it is twice as long each time in a row; None: it never grows.
    """

    def __init__(self, seconds: float, *, longest: float | None = None) -> None:
        self._seconds, self._longest = seconds, seconds if longest is None else longest
        self._known: dict[PeerId, tuple[int, float]] = {}  # times in a row, and until when; in this order

    def add(self, peer: PeerId, now: float) -> None:
        times, until = self._known.pop(peer, (0, now))
        if now >= until + self._longest:  # a long time has passed since: this is not in a row
            times = 0
        self._known[peer] = times + 1, now + min(self._longest, self._seconds * 2.0 ** min(times, 32))
        if len(self._known) > MAX_ABSENT:
            del self._known[next(iter(self._known))]

    def forgive(self, peer: PeerId) -> None:
        """It may be asked at once, and begins anew."""
        self._known.pop(peer, None)

    def has(self, peer: PeerId, now: float) -> bool:
        return peer in self._known and now < self._known[peer][1]

    def at(self, now: float) -> list[PeerId]:
        """Those that are absent still."""
        for peer in [peer for peer, (_, until) in self._known.items() if now >= until + self._longest]:
            del self._known[peer]
        return [peer for peer, (_, until) in self._known.items() if now < until]
