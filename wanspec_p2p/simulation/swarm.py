"""A whole network in virtual time: one coordinator, its targets, and nodes that come and go.

Shipped code from the coordinator's endpoints, registry, leases and answers to the nodes' services and the targets'
desks. Left out: HTTP, TLS, WebSockets, and the disk, for which `ledger` stands in. What is traced depends on the seed
alone; frames are not, since listeners draw their nonces from the system.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from coordinator.answer import Answer
from coordinator.endpoints import Endpoints
from coordinator.events import Tick
from coordinator.executor import Executor
from coordinator.openai_schema import Asked
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.simulation.identities import chance, identity
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.ledger import MemoryLedger
from wanspec_p2p.simulation.loop import SimulatedClock
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_links import SwarmLinks
from wanspec_p2p.simulation.swarm_peers import SwarmTarget
from wanspec_p2p.simulation.swarm_population import FOREVER, Population
from wanspec_p2p.simulation.trace import Trace, Watched
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import Role, Sampling, TokenId

__all__ = ["JOIN_SECONDS", "TICK_SECONDS", "Swarm", "SwarmSpec", "reference_models"]

TICK_SECONDS = 0.25
"""As the shipped coordinator's."""
JOIN_SECONDS = 60.0
"""Whoever comes has joined within this time."""
_SECRETS = {Role.NODE: "secret of the nodes", Role.TARGET: "secret of the targets"}


@dataclass(frozen=True, slots=True)
class SwarmSpec:
    """Args:
    target, drafter: make the model of the target or node of this number; a node makes a new one each time it comes.
    wan: what lies between two machines, by name: "coordinator", "target-0", "node-0", …; asked anew for each link.
    churn: None: who came stays.
    drafters: per session. slots: of each target. node_slots: of each node.
    heartbeat: seconds between those of a peer.
    """

    target: Callable[[int], LanguageModel]
    drafter: Callable[[int], LanguageModel]
    wan: Callable[[str, str], Wan]
    targets: int = 1
    nodes: int = 10
    churn: Churn | None = None
    drafters: int = 2
    slots: int = 8
    queue: int = 64
    node_slots: int = 8
    heartbeat: float = 2.0


def reference_models(text: Text) -> tuple[Callable[[int], LanguageModel], Callable[[int], LanguageModel]]:
    """`target` and `drafter` of a swarm with the reference setting's times and chances."""
    law = IidLaw(text)
    return (
        lambda number: SimulatedTarget(text, DeviceTime(flat(0.030, 64))),
        lambda number: SimulatedDrafter(law, DeviceTime(Steps(0.005, 8))),
    )


class Swarm(Watched):
    """Use as an asynchronous context manager: targets are registered when its body begins; nodes come meanwhile."""

    def __init__(self, spec: SwarmSpec, *, seed: int = 0, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.spec, self.seed = spec, seed
        self.clock = SimulatedClock()
        coordinator, numbers = identity(seed, "coordinator"), itertools.count(1)
        self.executor = Executor(
            CoordinatorSettings(data_dir=FilePath(), heartbeat=spec.heartbeat),
            coordinator,
            MemoryLedger(),
            self.clock,
            rng=chance(seed, "coordinator"),
            new_id=lambda: f"{next(numbers):032x}",
            tallies={},
        )
        self.links = SwarmLinks(Endpoints(self.executor), coordinator, self.clock, spec.wan, seed)
        self.targets: list[SwarmTarget] = []
        self.nodes = Population(
            self.links,
            spec.drafter,
            churn=spec.churn,
            slots=spec.node_slots,
            secret=_SECRETS[Role.NODE],
            seed=seed,
            note=lambda event, node: self._note(event, node=node),
        )
        self._ticking: asyncio.Task[None] | None = None
        self._requests = itertools.count(1)

    async def _open(self) -> None:
        now = self.clock.wall()
        for role, secret in _SECRETS.items():
            await self.executor.ledger.add_join_secret(
                secret,
                role=role,
                pool="default",
                expires=now + FOREVER,
                uses=max(self.spec.nodes, self.spec.targets),
                now=now,
            )
        self._ticking = asyncio.create_task(self._tick(), name="ticks of the coordinator")
        for number in range(self.spec.targets):
            self._add_target(number)
        async with asyncio.timeout(JOIN_SECONDS):
            for target in self.targets:
                await target.joined.wait()
        self.nodes.begin(self.spec.nodes)

    def _add_target(self, number: int) -> None:
        spec = self.spec
        target = SwarmTarget(
            f"target-{number}",
            spec.target(number),
            self.links,
            seed=self.seed,
            secret=_SECRETS[Role.TARGET],
            drafters=spec.drafters,
            slots=spec.slots,
            queue=spec.queue,
        )
        self.targets.append(target)
        self.links.add(target)

    async def _close(self) -> None:
        """Everything, in order; raises what ended a node's life before its time."""
        faults = await self.nodes.end()
        await asyncio.gather(*(target.stop() for target in self.targets))
        await self.executor.shut_down("the simulation is over", retry_after=0.0)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        await self.links.ended()
        if faults:
            raise faults[0]

    async def ask(self, prompt: Sequence[TokenId], tokens: int, *, seed: bytes = bytes(16)) -> Answer:
        """One greedy answer, through the coordinator to some target and back, finished.

        Raises:
            RequestError: it failed.
        """
        name = f"request {next(self._requests)}"
        generate = Generate(name, seed, Sampling(), max_tokens=tokens, prompt_ids=tuple(prompt))
        model = self.targets[0].target.engine.model.info.name
        begun = self.clock.monotonic()
        answer = self.executor.answers.open(Asked(model, generate, stream=True, include_usage=True, chat=False))
        try:
            async for _ in answer:
                pass
        finally:
            answer.close()
        self._note("answered", request=name, tokens=len(answer.ids), seconds=self.clock.monotonic() - begun)
        return answer

    async def _tick(self) -> None:
        while True:
            self.executor.post(Tick(self.clock.monotonic()))
            await asyncio.sleep(TICK_SECONDS)

    def _note(self, event: str, /, **facts: str | int | float) -> None:
        if self.trace is not None:
            self.trace.note(event, **facts)
