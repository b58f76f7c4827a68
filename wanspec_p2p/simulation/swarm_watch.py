"""Looks at a swarm while it lives: who drafts where, how soon a drafter that was lost is replaced, and whether the
coordinator knows who is here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from coordinator.registry import BEATS_BEFORE_LOST
from wanspec_p2p.simulation.swarm import JOIN_SECONDS, TICK_SECONDS, Swarm
from wanspec_p2p.simulation.swarm_churn import Departure
from wanspec_p2p.simulation.swarm_peers import SwarmTarget
from wanspec_p2p.target.draft_link import DraftLink
from wanspec_p2p.types import PeerId

__all__ = ["LOOK_SECONDS", "Replacements", "SwarmWatch"]

LOOK_SECONDS = 0.05
"""Between two looks at the targets: how exact times of replacements are."""
CENSUS_SECONDS = 30.0
"""Between two looks at the registry."""
_ON_ITS_WAY = 2.0
"""Seconds that news may take, whatever the distance."""


@dataclass(slots=True)
class Replacements:
    """Of drafters whose loss left a target with too few, by what became of them: "left", "died", "silent", or "let go"
    where the node lives.

    Attributes:
        seconds: from the loss, which a target may learn of later, to the next drafter's attachment; as they happened.
        open: losses nobody has replaced yet.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    open: int = 0


class _Seats:
    """Of one target."""

    def __init__(self, target: SwarmTarget) -> None:
        self.target = target
        self.since: dict[DraftLink, float] = {}  # which links are attached, and since when
        self.lost: dict[DraftLink, None] = {}  # those of them whose node is gone, noticed or not
        self.losses: deque[Departure] = deque()  # not yet made good


class SwarmWatch:
    """Call `run` in a task of its own.

    Attributes:
        matches: drafters that attached to a target.
        ghosts: most entries of the registry, at one time, for nodes gone for longer than it takes to be sure of it.
        missing: most nodes, at one time, that had been here for long and were not in the registry.
    """

    def __init__(self, swarm: Swarm) -> None:
        self.matches = self.ghosts = self.missing = 0
        self._swarm = swarm
        self._seats = [_Seats(target) for target in swarm.targets]
        self._seconds: dict[str, list[float]] = {}
        self._here_since: dict[PeerId, float] = {}

    @property
    def replacements(self) -> Replacements:
        return Replacements(self._seconds, sum(len(seats.losses) for seats in self._seats))

    async def run(self) -> None:
        """Until cancelled."""
        census_at = 0.0
        while True:
            for seats in self._seats:
                self._look(seats)
            if self._swarm.clock.monotonic() >= census_at:
                census_at = self._swarm.clock.monotonic() + CENSUS_SECONDS
                self._count()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self, seats: _Seats) -> None:
        pool, now = seats.target.target.pool, self._swarm.clock.monotonic()
        attached = [] if pool is None else [link for link in map(pool.link, pool.attached) if link is not None]
        for link in [link for link in attached if link not in seats.since]:
            self.matches += 1
            seats.since[link] = now
            if seats.losses:
                loss = seats.losses.popleft()
                self._seconds.setdefault(loss.how, []).append(now - loss.at)
        for link, since in list(seats.since.items()):
            departure = self._swarm.nodes.departures.get(link.node)
            if link not in seats.lost:
                if departure is not None and departure.at >= since - LOOK_SECONDS:
                    self._lose(seats, link, departure)
                elif link not in attached:
                    self._lose(seats, link, Departure(now, "let go"))
            if link not in attached:
                del seats.since[link], seats.lost[link]

    def _lose(self, seats: _Seats, link: DraftLink, departure: Departure) -> None:
        seats.lost[link] = None
        if len(seats.since) - len(seats.lost) < self._swarm.spec.drafters:  # or else it was one more than needed
            seats.losses.append(departure)

    def _stayed_since(self, peer: PeerId, now: float) -> float:
        """The first census of its stay."""
        since, departure = self._here_since.get(peer, now), self._swarm.nodes.departures.get(peer)
        return since if departure is None or departure.at < since else now

    def _count(self) -> None:
        now, registry = self._swarm.clock.monotonic(), self._swarm.executor.registry
        here = {node.identity.peer_id for node in self._swarm.nodes.here.values()}
        self._here_since = {peer: self._stayed_since(peer, now) for peer in here}
        told = BEATS_BEFORE_LOST * self._swarm.spec.heartbeat + TICK_SECONDS + _ON_ITS_WAY
        departures = self._swarm.nodes.departures
        ghosts = [peer for peer in registry.nodes if peer not in here and now - departures[peer].at > told]
        missing = [
            peer
            for peer, since in self._here_since.items()
            if peer not in registry.nodes and now - since > JOIN_SECONDS
        ]
        self.ghosts, self.missing = max(self.ghosts, len(ghosts)), max(self.missing, len(missing))
