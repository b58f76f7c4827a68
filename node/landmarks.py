"""How far targets are: how long a TCP connection to one takes, which is a round trip. Nothing is ever sent on it.

The coordinator asks before it leases this node to anybody, so as to know whom it is near. What it can make a node do
by that is less than a lease does: connect to a few addresses that may be dialled, one at a time, and not often.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.links import draft_address
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.protocol.limits import LANDMARK_SECONDS
from wanspec_p2p.protocol.node_to_coordinator import Timed

__all__ = ["LandmarkTimer", "TimeTarget", "connection_seconds"]

TimeTarget: TypeAlias = Callable[[Landmark], Awaitable[float]]
"""One round trip to a target, in seconds; Unreachable where there is none."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

TRIES = 3
"""Round trips of which the shortest counts: what makes one longer is not the distance."""
TRY_SECONDS = 2.0
SPREAD_SECONDS = 5.0
"""A node begins within so much time, so that not all nodes come to a new target at once."""

log = structlog.get_logger(__name__)


class LandmarkTimer:
    """Args:
    time: what times one round trip.
    rng: how long is waited before a round.
    """

    def __init__(self, time: TimeTarget, *, clock: Clock, rng: random.Random, sleep: Sleep = asyncio.sleep) -> None:
        self._time, self._clock, self._rng, self._sleep = time, clock, rng, sleep
        self._free_at = -math.inf

    async def time(self, landmarks: Sequence[Landmark], report: Callable[[Timed], None]) -> None:
        """Time each in its turn and `report` those that were reached, `LANDMARK_SECONDS` after the last round began.

        May be cancelled; what it has begun then still counts as a round.
        """
        wait = max(self._free_at - self._clock.monotonic(), 0.0)
        await self._sleep(wait + self._rng.uniform(0.0, SPREAD_SECONDS))
        self._free_at = self._clock.monotonic() + LANDMARK_SECONDS
        reached = 0
        for landmark in landmarks:
            seconds = await self._shortest(landmark)
            if seconds is not None:
                reached += 1
                report(Timed(landmark.target, seconds))
        log.info("timed the way to targets", asked=len(landmarks), reached=reached)

    async def _shortest(self, landmark: Landmark) -> float | None:
        """Seconds; None where a try fails."""
        shortest = math.inf
        try:
            for _ in range(TRIES):
                async with asyncio.timeout(TRY_SECONDS):
                    shortest = min(shortest, await self._time(landmark))
        except (Unreachable, TimeoutError) as error:
            log.debug("no way to a target", target=landmark.target, reason=str(error))
            return None
        return shortest


async def connection_seconds(landmark: Landmark, clock: Clock) -> float:
    """How long a TCP connection to the landmark's address takes, its name looked up before; it is closed at once.

    Raises:
        Unreachable: nobody takes one there, or the address may not be dialled.
    """
    place = draft_address.parse(landmark.address)
    if place is None:
        raise Unreachable(f"{landmark.address} may not be dialled")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        return await _first(found, clock)
    except OSError as error:
        raise Unreachable(f"nobody answers at {landmark.address}: {error}") from error


async def _first(found: Sequence[Any], clock: Clock) -> float:
    """Of the first address that takes a connection; as OSError, why the last one does not."""
    failure = OSError("no address")
    for family, kind, number, _, address in found:
        with socket.socket(family, kind, number) as connection:
            connection.setblocking(False)
            begun = clock.monotonic()
            try:
                await asyncio.get_running_loop().sock_connect(connection, address)
            except OSError as error:
                failure = error
            else:
                return clock.monotonic() - begun
    raise failure
