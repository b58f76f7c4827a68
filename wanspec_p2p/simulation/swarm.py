"""A whole network in virtual time: one coordinator, its targets, and nodes that come and go.

Shipped code from the coordinator's endpoints, registry, leases and answers to the nodes' services and the targets'
desks. Left out: HTTP, TLS, WebSockets, and the disk, for which `ledger` stands in. What is traced depends on the seed
alone; frames are not, since listeners draw their nonces from the system.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from coordinator.answers import Answer
from coordinator.endpoints import Endpoints
from coordinator.events import Tick
from coordinator.executor import Executor
from coordinator.openai_schema import Asked
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.links.memory import MemoryTransport, memory_transports
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.simulation.identities import chance, identity
from wanspec_p2p.simulation.ledger import MemoryLedger
from wanspec_p2p.simulation.loop import SimulatedClock
from wanspec_p2p.simulation.swarm_peers import SwarmNode, SwarmTarget
from wanspec_p2p.simulation.swarm_traffic import CountedTransport, Traffic
from wanspec_p2p.simulation.trace import Trace, Watched
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import PeerId, Role, Sampling, TokenId

__all__ = ["Churn", "Counts", "Departure", "Swarm", "SwarmSpec"]

TICK_SECONDS = 0.25
"""As the shipped coordinator's."""
ARRIVAL_SECONDS = 20.0
"""The first nodes come within this time: a coordinator lets only so many strangers in at once."""
JOIN_SECONDS = 60.0
FOREVER = 1e9
_SECRETS = {Role.NODE: "secret of the nodes", Role.TARGET: "secret of the targets"}


@dataclass(frozen=True, slots=True)
class Churn:
    """How nodes come and go: exponential stays, then exponential absences, then the same node again.

    Args:
        stay, away: means, in seconds.
        polite: share of departures that are announced; in the others a process dies, and its links break.
        silent: share of those others in which the machine is cut off with it: nobody is told, and links just go quiet.

    Raises:
        ValueError: a value outside its range; the message names it.
    """

    stay: float
    away: float
    polite: float = 0.5
    silent: float = 0.0

    def __post_init__(self) -> None:
        for name in ("stay", "away"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("polite", "silent"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")


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


@dataclass(slots=True)
class Counts:
    """How often nodes came, left with a word, and died without one; and how many of those went silent."""

    came: int = 0
    left: int = 0
    died: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Departure:
    """When and how a node went."""

    at: float  # virtual seconds
    how: str  # "left", "died" or "silent"


class Swarm(Watched):
    """Use as an asynchronous context manager: targets are registered when its body begins; nodes come meanwhile."""

    def __init__(self, spec: SwarmSpec, *, seed: int = 0, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.spec, self.seed = spec, seed
        self.clock = SimulatedClock()
        self.coordinator = identity(seed, "coordinator")
        self.counts = Counts()
        self.targets: list[SwarmTarget] = []
        self.nodes: dict[int, SwarmNode] = {}  # those that are here
        self.departures: dict[PeerId, Departure] = {}  # the last of each node
        self.traffic = Traffic()
        self._by_peer: dict[PeerId, SwarmTarget] = {}
        self._dooms: dict[int, asyncio.Event] = {}
        self._ends: dict[asyncio.Task[None], None] = {}
        self._lives: list[asyncio.Task[None]] = []
        self._ticking: asyncio.Task[None] | None = None
        self._requests = itertools.count(1)
        self._wires = itertools.count(1)
        numbers = itertools.count(1)
        self.executor = Executor(
            CoordinatorSettings(data_dir=FilePath(), heartbeat=spec.heartbeat),
            self.coordinator,
            MemoryLedger(),
            self.clock,
            rng=chance(seed, "coordinator"),
            new_id=lambda: f"{next(numbers):032x}",
            tallies={},
        )
        self._endpoints = Endpoints(self.executor)

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
        self._lives = [
            asyncio.create_task(self._live(number), name=f"life of node-{number}") for number in range(self.spec.nodes)
        ]

    async def _close(self) -> None:
        """Everything, in order; raises what ended a node's life before its time."""
        for life in self._lives:
            life.cancel()
        ended = await asyncio.gather(*self._lives, return_exceptions=True)
        await asyncio.gather(*(node.kill() for node in self.nodes.values()))
        await asyncio.gather(*(target.stop() for target in self.targets))
        await self.executor.shut_down("the simulation is over", retry_after=0.0)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, *self._ends, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault

    # Answers

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

    def kill(self, share: float, rng: random.Random) -> int:
        """So many of the nodes that are here die at once. Returns their number; they come again as others do."""
        here = sorted(self._dooms)
        doomed = rng.sample(here, round(share * len(here)))
        for number in doomed:
            self._dooms[number].set()
        return len(doomed)

    @property
    def links(self) -> int:
        """Ends of links that somebody dialled and that are served still."""
        return len(self._ends)

    # Switchboard

    def to_coordinator(self, caller: str, role: Role) -> MemoryTransport:
        near, far = self._wire(caller, "coordinator")
        self._spawn(self._endpoints.serve(CountedTransport(far, self.traffic), role), f"coordinator's end for {caller}")
        return near

    def to_target(self, caller: str, target: PeerId) -> MemoryTransport:
        if target not in self._by_peer:
            raise Unreachable("nobody answers there")
        called = self._by_peer[target]
        near, far = self._wire(caller, called.name)
        self._spawn(called.admit(far), f"{called.name}'s end for {caller}")
        return near

    def _wire(self, caller: str, called: str) -> tuple[MemoryTransport, MemoryTransport]:
        wan = self.spec.wan(caller, called)
        rng = chance(self.seed, caller, called, str(next(self._wires)))
        return memory_transports(wan.path(), wan.path(), rng=rng)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._ends[task] = None
        task.add_done_callback(self._ends.pop)

    # Coming and going

    def _add_target(self, number: int) -> None:
        spec = self.spec
        target = SwarmTarget(
            f"target-{number}",
            spec.target(number),
            self,
            seed=self.seed,
            secret=_SECRETS[Role.TARGET],
            drafters=spec.drafters,
            slots=spec.slots,
            queue=spec.queue,
        )
        self.targets.append(target)
        self._by_peer[target.identity.peer_id] = target

    async def _live(self, number: int) -> None:
        rng, churn = chance(self.seed, f"node-{number}", "comings and goings"), self.spec.churn
        await asyncio.sleep(rng.uniform(0.0, ARRIVAL_SECONDS))
        for stay in itertools.count():
            await self._stay(number, stay, rng)
            away = FOREVER if churn is None else rng.expovariate(1.0 / churn.away)
            await asyncio.sleep(away)

    async def _stay(self, number: int, stay: int, rng: random.Random) -> None:
        spec, churn = self.spec, self.spec.churn
        node = SwarmNode(
            f"node-{number}",
            spec.drafter(number),
            self,
            seed=self.seed,
            stay=stay,
            secret=_SECRETS[Role.NODE],
            slots=spec.node_slots,
        )
        self.nodes[number], doom = node, asyncio.Event()
        self._dooms[number] = doom
        self.counts.came += 1
        self._note("came", node=node.name)
        how = "died"
        try:
            async with asyncio.timeout(FOREVER if churn is None else rng.expovariate(1.0 / churn.stay)):
                await doom.wait()
        except TimeoutError:
            if churn is not None and rng.random() < churn.polite:
                how = "left"
        if how == "died" and churn is not None and rng.random() < churn.silent:
            how = "silent"
        del self._dooms[number]
        self.departures[node.identity.peer_id] = Departure(self.clock.monotonic(), how)
        self._note(how, node=node.name)
        if how == "left":
            self.counts.left += 1
            await node.leave()
        else:
            self.counts.died += 1
            self.counts.silent += how == "silent"
            await node.kill(silently=how == "silent")
        del self.nodes[number]

    async def _tick(self) -> None:
        while True:
            self.executor.post(Tick(self.clock.monotonic()))
            await asyncio.sleep(TICK_SECONDS)

    def _note(self, event: str, /, **facts: str | int | float) -> None:
        if self.trace is not None:
            self.trace.note(event, **facts)
