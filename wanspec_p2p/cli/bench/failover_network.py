"""The network of a failover bench: who has to be there before a strike, and whether everybody is back after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wanspec_p2p.cli.bench.cluster import READY_SECONDS, Cluster
from wanspec_p2p.cli.processes import Child
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.simulation.adversaries import Kind

__all__ = ["NODES", "StruckNetwork"]

NODES = 2
SETTLED_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StruckNetwork:
    """A cluster, looked at by a submitter."""

    cluster: Cluster
    client: AsyncClient
    clock: Clock

    async def prepare(self) -> None:
        """Everybody is there whom the next strike needs: two targets, and the nodes."""
        cluster = self.cluster
        dead = sorted(cluster.targets.keys() - set(_alive(cluster.targets)))
        if len(cluster.targets) - len(dead) < 2:
            for child in [await cluster.start_target(name) for name in dead]:
                await child.ready(READY_SECONDS)
        await cluster.start_nodes((Kind.HONEST,) * NODES)
        await self.settled()

    async def complete(self) -> bool:
        """Everybody who lives is registered."""
        try:
            state = await self.client.state()
        except WanspecError:
            return False
        there = [sum(peer["state"] == "active" for peer in state[kind]) for kind in ("targets", "nodes")]
        return there == [len(_alive(self.cluster.targets)), len(_alive(self.cluster.nodes))]

    async def settled(self) -> None:
        """Wait until everybody is registered, and a node drafts for each target."""
        await self.until(self.complete)
        await self.until(self._lent)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Raises WanspecError where it never does."""
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                while True:
                    if await holds():
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise WanspecError(f"the network had not settled after {SETTLED_SECONDS:g} s") from None

    async def _lent(self) -> bool:
        return all(target["drafters"] for target in (await self.client.state())["targets"])

    async def idle(self) -> bool:
        """No answer and no session is left, at a target that woke up neither."""
        targets = (await self.client.state())["targets"]
        return not any(target["sessions"] or target["queued"] or target["answers"] for target in targets)


def _alive(children: dict[str, Child]) -> list[str]:
    return [name for name, child in children.items() if child.process.returncode is None]
