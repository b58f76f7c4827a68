"""One process struck in mid-answer, and what a supervisor does about it."""

from __future__ import annotations

import asyncio
import signal

from wanspec_p2p.cli.bench.failover_network import StruckNetwork
from wanspec_p2p.cli.bench.failover_outcome import Victim
from wanspec_p2p.cli.processes import Child

__all__ = ["Strike"]

STOPPED_SECONDS = 3.0
"""How long a coordinator is stopped: there is only one, so nobody can go on before it does."""


class Strike:
    """One signal to one process. `choose` is called when the answer has begun, `strike` when its point has come.

    Args:
        at: tokens of the answer after which it is struck.

    Attributes:
        back: seconds from the return of a coordinator until everybody was registered again.
    """

    def __init__(self, network: StruckNetwork, victim: Victim, at: int, number: signal.Signals) -> None:
        self.back: float | None = None
        self.at = at
        self._network, self._victim, self._signal = network, victim, number
        self._child: Child
        self._after: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        return self._after is not None

    async def choose(self) -> None:
        cluster, client = self._network.cluster, self._network.client
        match self._victim:
            case Victim.COORDINATOR:
                self._child = cluster.coordinator
            case Victim.NODE:
                self._child = cluster.nodes[await cluster.drafting(client)]
            case Victim.TARGET:
                targets = (await client.state())["targets"]
                # On a fast machine the answer may be over by now: then it is a target that has done its part.
                name = next((target["name"] for target in targets if target["answers"]), targets[0]["name"])
                self._child = cluster.targets[name]

    def strike(self) -> None:
        self._child.process.send_signal(self._signal)
        self._after = asyncio.create_task(self._and_then())

    async def _and_then(self) -> None:
        """The only coordinator comes back; the others' place is taken."""
        if self._victim is not Victim.COORDINATOR:
            return
        if self._signal is signal.SIGSTOP:
            await asyncio.sleep(STOPPED_SECONDS)
            self._child.process.send_signal(signal.SIGCONT)
            return
        await self._child.process.wait()
        network = self._network
        await network.cluster.start_coordinator()
        begun = network.clock.monotonic()
        await network.until(network.complete)
        self.back = network.clock.monotonic() - begun

    async def end(self) -> None:
        """Who was stopped wakes up; who was killed is gone."""
        if self._after is not None:
            await self._after
            if self._signal is signal.SIGSTOP:
                self._child.process.send_signal(signal.SIGCONT)
            elif self._victim is not Victim.COORDINATOR:
                await self._child.process.wait()
