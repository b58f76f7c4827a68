"""A map that a seed draws: how far apart the machines of a network are."""

from __future__ import annotations

import math

from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.wan import Wan

__all__ = ["FARTHEST_ACCESS", "NEAREST_ACCESS", "SIDE_SECONDS", "Geography"]

SIDE_SECONDS = 0.1
"""Of the square that machines lie in: as a round trip."""
NEAREST_ACCESS, FARTHEST_ACCESS = 0.001, 0.010
"""Seconds of a round trip between a machine and the network it hangs on."""
JITTER = 0.1


class Geography:
    """Where the machines of a network are: even in a square, each behind an access link of its own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._places: dict[str, tuple[float, float, float]] = {}

    def wan(self, caller: str, called: str) -> Wan:
        here, there = self._place(caller), self._place(called)
        return Wan(rtt=math.dist(here[:2], there[:2]) + (here[2] + there[2]), jitter=JITTER)

    def _place(self, name: str) -> tuple[float, float, float]:
        if name not in self._places:
            rng = chance(self._seed, name, "place")
            at = rng.uniform(0.0, SIDE_SECONDS), rng.uniform(0.0, SIDE_SECONDS)
            self._places[name] = *at, rng.uniform(NEAREST_ACCESS, FARTHEST_ACCESS)
        return self._places[name]
