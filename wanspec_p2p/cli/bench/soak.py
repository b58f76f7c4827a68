"""Nodes that join and leave every few seconds, for hours: nothing of them may stay behind when they are gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanspec_p2p.cli.bench.bed import Bed, loading
from wanspec_p2p.cli.bench.holdings import Holdings, Watched
from wanspec_p2p.cli.processes import Fleet, with_fleet
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.types import Role

__all__ = ["Outcome", "report", "run"]

STREAMS, TOKENS = 4, 64
PAUSE = (0.5, 4.0)
"""Seconds between two nodes that one place has, at least and at most."""
STAY = (2.0, 12.0)
READY_SECONDS = 60.0
SETTLE_SECONDS = 60.0
"""Those that were killed are noticed by their silence; their leases end by themselves."""


@dataclass
class Outcome(Holdings):
    """Attributes:
    joined, killed, stopped: nodes.
    ghosts: entries of nodes and leases that the coordinator still has when all nodes are gone.
    """

    seconds: float = 0.0
    joined: int = 0
    killed: int = 0
    stopped: int = 0
    answers: int = 0
    wrong: int = 0
    ghosts: int = 0

    @property
    def failed(self) -> bool:
        return bool(self.wrong or self.ghosts) or self.leaked


async def run(*, minutes: float, nodes: int, seed: int) -> Outcome:
    """Args:
    nodes: places, each with one node after another.
    """

    async def work(fleet: Fleet, directory: Path, _: Mapping[str, str]) -> Outcome:
        async with Bed.running(fleet, directory, seed=seed, setting=Setting(local=False), slots=8) as bed:
            soak = _Soak(bed, random.Random(seed), SystemClock())
            return await fleet.while_alive(soak.run(minutes * 60.0, nodes))

    return await with_fleet("wanspec-bench-", work)


class _Soak:
    def __init__(self, bed: Bed, rng: random.Random, clock: Clock) -> None:
        self._bed, self._rng, self._clock = bed, rng, clock
        self._outcome = Outcome()
        self._names = 0

    async def run(self, seconds: float, nodes: int) -> Outcome:
        bed, outcome, clock = self._bed, self._outcome, self._clock
        await self._one_node()  # what is made once and kept is made now
        await self._ask("warm")
        await self._gone()
        outcome.before = await bed.usage()
        watched, begun = Watched(), clock.monotonic()
        async with loading(bed.watch(watched, clock)) as group:
            for _ in range(nodes):
                group.create_task(self._place(begun + seconds))
            for number in range(STREAMS):
                group.create_task(self._stream(number, begun + seconds))
        outcome.seconds = clock.monotonic() - begun
        await self._gone()
        outcome.after = await bed.settled(outcome.before, SETTLE_SECONDS)
        state = await bed.state()
        outcome.ghosts = len(state["nodes"]) + len(state["leases"])
        outcome.grew(watched)
        return outcome

    async def _place(self, until: float) -> None:
        while self._clock.monotonic() < until:
            await self._one_node()
            await asyncio.sleep(self._rng.uniform(*PAUSE))

    async def _one_node(self) -> None:
        """It joins with a token of its own, stays a while, and leaves: half of them in order, half of them killed."""
        self._names += 1
        child = await self._bed.start_peer(Role.NODE, f"node-{self._names}")
        try:
            await child.ready(READY_SECONDS)
            self._outcome.joined += 1
            await asyncio.sleep(self._rng.uniform(*STAY))
        finally:
            if self._rng.random() < 0.5:
                self._outcome.killed += 1
                child.kill()
                await child.process.wait()
            else:
                self._outcome.stopped += 1
                await child.stop()
            self._bed.fleet.forget(child)

    async def _stream(self, stream: int, until: float) -> None:
        number = 0
        while self._clock.monotonic() < until:
            number += 1
            await self._ask(f"stream {stream}, {number}")

    async def _ask(self, prompt: str) -> None:
        reply = await self._bed.ask(prompt, TOKENS)
        self._outcome.answers += 1
        self._outcome.wrong += reply.ids != self._bed.right(prompt, TOKENS)

    async def _gone(self) -> None:
        """Until the coordinator has noticed that every node is gone, or should have."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while True:
                    state = await self._bed.state()
                    if not state["nodes"] and not state["leases"]:
                        return
                    await asyncio.sleep(0.5)
        except TimeoutError:
            if not self._outcome.before:
                raise WanspecError("the coordinator did not notice in time that a node was gone") from None


def report(outcome: Outcome) -> dict[str, Any]:
    """For people and machines alike."""
    return {
        "seconds": round(outcome.seconds, 1),
        "nodes_joined": outcome.joined,
        "nodes_killed": outcome.killed,
        "nodes_stopped": outcome.stopped,
        "answers": outcome.answers,
        "wrong_answers": outcome.wrong,
        "ghosts": outcome.ghosts,
        **outcome.report(),
    }
