"""Which targets are hung: those that owe tokens and of which nothing at all has been heard for two seconds.

A slow target is not a hung one. While a target owes it is pinged twice a second, and its event loop answers however
long its model takes for a pass: only a process that has stopped, or that nobody can reach, says nothing. Silence counts
in steps of our own ticks, so that it is not held against others when it was we who were stopped.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from coordinator.events import LinkId
from wanspec_p2p.links.peer import LinkStats

__all__ = ["HUNG_SECONDS", "Watch", "WatchedLink"]

HUNG_SECONDS = 2.0
"""A target that owes tokens may be silent for so long."""
ASK_SECONDS = 0.5
"""How often it is pinged meanwhile: three pongs may go astray."""
MAX_STEP = 0.5
"""Seconds of silence that one tick may add. Ticks come every quarter of a second unless we could not run ourselves."""


class WatchedLink(Protocol):
    @property
    def stats(self) -> LinkStats: ...

    @property
    def reading(self) -> bool: ...

    def ping(self) -> None: ...


@dataclass(slots=True)
class _Silence:
    frames: int
    seconds: float = 0.0
    since_asked: float = ASK_SECONDS


class Watch:
    """Knows every target's link; looks at those that owe."""

    def __init__(self) -> None:
        self._links: dict[LinkId, WatchedLink] = {}
        self._silences: dict[LinkId, _Silence] = {}
        self._at: float | None = None

    def begin(self, number: LinkId, link: WatchedLink) -> None:
        self._links[number] = link

    def end(self, number: LinkId) -> None:
        self._links.pop(number, None)
        self._silences.pop(number, None)

    def hung(self, number: LinkId) -> bool:
        """It was found hung and nothing has been heard since, whether or not it still owes."""
        silence, link = self._silences.get(number), self._links.get(number)
        if silence is None or link is None or silence.seconds < HUNG_SECONDS:
            return False
        return link.stats.frames_received == silence.frames

    def tick(self, at: float, owing: Collection[LinkId]) -> list[LinkId]:
        """Look at the links that owe now; those of them that are hung.

        Args:
            at: monotonic seconds.
        """
        step = 0.0 if self._at is None else min(at - self._at, MAX_STEP)
        self._at = at
        for number in [number for number in self._silences if number not in owing and not self.hung(number)]:
            del self._silences[number]
        for number in owing:
            if (link := self._links.get(number)) is not None:
                self._look(number, link, step)
        return [number for number in owing if self.hung(number)]

    def _look(self, number: LinkId, link: WatchedLink, step: float) -> None:
        frames = link.stats.frames_received
        silence = self._silences.get(number)
        if silence is None:
            silence = self._silences[number] = _Silence(frames)
        elif silence.frames != frames or not link.reading:
            silence.frames, silence.seconds = frames, 0.0
        else:
            silence.seconds += step
        silence.since_asked += step
        if silence.since_asked >= ASK_SECONDS:
            silence.since_asked = 0.0
            link.ping()
