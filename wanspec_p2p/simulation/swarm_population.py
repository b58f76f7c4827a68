"""The nodes of a swarm, each of which comes, stays, goes, and comes again."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.swarm_churn import Churn, Counts, Departure
from wanspec_p2p.simulation.swarm_peers import SwarmNode, Switchboard
from wanspec_p2p.types import PeerId

__all__ = ["ARRIVAL_SECONDS", "FOREVER", "SETTLED_SECONDS", "Population"]

ARRIVAL_SECONDS = 20.0
"""The first nodes come within this time: a coordinator lets only so many strangers in at once."""
SETTLED_SECONDS = ARRIVAL_SECONDS + 10.0
"""By then every node has come, and targets have the drafters that they asked for."""
FOREVER = 1e9


class Population:
    """Args:
    drafter: makes the model of the node of this number; a new one each time it comes.
    churn: None: who came stays.
    slots: of each node.
    secret: that joins them.
    note: told that a node "came", "left", "died" or went "silent", and its name.

    Attributes:
        here: nodes that are here, by number.
        departures: the last of each node.
    """

    def __init__(
        self,
        network: Switchboard,
        drafter: Callable[[int], LanguageModel],
        *,
        churn: Churn | None,
        slots: int,
        secret: str,
        seed: int,
        note: Callable[[str, str], None],
    ) -> None:
        self.counts = Counts()
        self.here: dict[int, SwarmNode] = {}
        self.departures: dict[PeerId, Departure] = {}
        self._network, self._drafter, self._churn = network, drafter, churn
        self._slots, self._secret, self._seed, self._note = slots, secret, seed, note
        self._dooms: dict[int, asyncio.Event] = {}
        self._lives: list[asyncio.Task[None]] = []

    def begin(self, nodes: int) -> None:
        """So many lives, from now on."""
        self._lives = [
            asyncio.create_task(self._live(number), name=f"life of node-{number}") for number in range(nodes)
        ]

    async def end(self) -> list[Exception]:
        """Nobody is here any more, and nobody comes; returns what ended lives before their time."""
        for life in self._lives:
            life.cancel()
        ended = await asyncio.gather(*self._lives, return_exceptions=True)
        await asyncio.gather(*(node.kill() for node in self.here.values()))
        return [fault for fault in ended if isinstance(fault, Exception)]

    def doom(self, number: int) -> None:
        """This node, which is here, dies at once, and comes again as others do."""
        self._dooms[number].set()

    def kill(self, share: float, rng: random.Random) -> int:
        """`doom` for so many of the nodes that are here. Returns their number."""
        here = sorted(self._dooms)
        doomed = rng.sample(here, round(share * len(here)))
        for number in doomed:
            self.doom(number)
        return len(doomed)

    async def _live(self, number: int) -> None:
        rng, churn = chance(self._seed, f"node-{number}", "comings and goings"), self._churn
        await asyncio.sleep(rng.uniform(0.0, ARRIVAL_SECONDS))
        for stay in itertools.count():
            await self._stay(number, stay, rng)
            away = FOREVER if churn is None else rng.expovariate(1.0 / churn.away)
            await asyncio.sleep(away)

    async def _stay(self, number: int, stay: int, rng: random.Random) -> None:
        node = SwarmNode(
            f"node-{number}",
            self._drafter(number),
            self._network,
            seed=self._seed,
            stay=stay,
            secret=self._secret,
            slots=self._slots,
        )
        self.here[number], doom = node, asyncio.Event()
        self._dooms[number] = doom
        self.counts.came += 1
        self._note("came", node.name)
        how = await self._end_of_stay(doom, rng)
        del self._dooms[number]
        self.departures[node.identity.peer_id] = Departure(self._network.clock.monotonic(), how)
        self._note(how, node.name)
        if how == "left":
            self.counts.left += 1
            await node.leave()
        else:
            self.counts.died += 1
            self.counts.silent += how == "silent"
            await node.kill(silently=how == "silent")
        del self.here[number]

    async def _end_of_stay(self, doom: asyncio.Event, rng: random.Random) -> str:
        """Wait for it; how it comes."""
        churn, how = self._churn, "died"
        try:
            async with asyncio.timeout(FOREVER if churn is None else rng.expovariate(1.0 / churn.stay)):
                await doom.wait()
        except TimeoutError:
            if churn is not None and rng.random() < churn.polite:
                how = "left"
        if how == "died" and churn is not None and rng.random() < churn.silent:
            how = "silent"
        return how
