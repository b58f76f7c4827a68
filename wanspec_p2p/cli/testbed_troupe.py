"""The nodes of a scenario as processes, each behind a relay of its own, and what happens to them meanwhile.

What `simulation.cast` does to nodes in virtual time is done here to real ones: a lost node's process is killed with
SIGKILL by its own pid; another process, started beforehand so that nobody waits for Python, joins in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from coordinator.admin import issue_join_token
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.cli.processes import Child, Fleet
from wanspec_p2p.cli.testbed_watch import counts
from wanspec_p2p.links.websocket import DRAFT_PATH
from wanspec_p2p.simulation.cast import REPLACEMENT_ROUND_TRIPS, parts, way
from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.simulation.relay import Relay, relaying
from wanspec_p2p.simulation.scenario import Scenario
from wanspec_p2p.simulation.testbed_peer import HONEST_PART, SLOTS, Part, peer_command
from wanspec_p2p.simulation.troubles import Troubles
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import Role

__all__ = ["READY_SECONDS", "Troupe"]

READY_SECONDS = 120.0
MOST_STANDBYS = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    child: Child
    relay: Relay
    kind: str
    wan: Wan


class Troupe:
    """Made by `Troupe.on_stage`.

    Args:
        scenario: its times are stretched already, by `slow`.
        seed: of the text, of the ways, and of who is lost when.
    """

    def __init__(
        self,
        fleet: Fleet,
        home: CoordinatorSettings,
        scenario: Scenario,
        slow: float,
        seed: int,
        relays: AsyncExitStack,
    ) -> None:
        self.lost = 0
        self._fleet, self._home, self._scenario, self._slow, self._seed = fleet, home, scenario, slow, seed
        self._relays = relays
        self._rng = random.Random(f"scenario {seed}")
        self._parts = parts(scenario)
        self._started = 0
        self._port = 0
        self._alive: list[_Node] = []
        self._standbys: list[_Node] = []
        self._asking = asyncio.Lock()
        self._troubles = Troubles(slow)

    @classmethod
    @asynccontextmanager
    async def on_stage(
        cls, fleet: Fleet, home: CoordinatorSettings, scenario: Scenario, slow: float, seed: int
    ) -> AsyncIterator[Troupe]:
        """Relays end with the block, processes with the fleet."""
        async with AsyncExitStack() as relays:
            yield cls(fleet, home, scenario, slow, seed, relays)

    async def start(self) -> Child:
        """The target and all nodes. Returns the target once all of them have joined."""
        command = self._command(Role.TARGET, "target", slots=max(SLOTS, self._scenario.at_once))
        target = await self._fleet.start("target", command, secret=self._token(Role.TARGET))
        self._port = int((await target.ready(READY_SECONDS))["port"])
        nodes = [await self._spawn(*part) for part in self._parts]
        for node in nodes:
            self._join(node)
        self._standbys = [await self._spawn(*part) for part in self._reserve]
        for node in nodes:
            await node.child.ready(READY_SECONDS)
        self._alive = nodes
        return target

    @contextlib.asynccontextmanager
    async def in_trouble(self) -> AsyncIterator[None]:
        """Things happen to the nodes while the body runs. What went wrong with that is raised at its end."""
        for node in self._alive:
            self._troubles.beset(node.kind, node.relay)
        if self._scenario.churn.kill_share:
            self._troubles.begin(self._kill_share())
        async with self._troubles.meanwhile():
            yield

    def after_round(self) -> None:
        """Of one answer: the drafters that are lost now."""
        chance_of_loss = self._scenario.churn.loss_per_round
        if chance_of_loss:
            for _ in range(min(self._scenario.per_session, len(self._alive))):
                if self._rng.random() < chance_of_loss:
                    self._troubles.begin(self._lose())

    @property
    def _reserve(self) -> list[tuple[str, Wan]]:
        """Parts of nodes that will be needed, as many as a loss in every other token's round would take."""
        own = self._scenario
        expected = own.churn.loss_per_round * own.per_session * own.tokens * own.at_once / 2.0
        if not expected:
            return []
        count = min(MOST_STANDBYS, 1 + round(expected))
        return [self._parts[number % len(self._parts)] for number in range(count)]

    def _command(self, role: Role, name: str, *, slots: int, part: Part = HONEST_PART) -> list[str]:
        own = self._scenario
        setting = Setting(
            drafters=own.per_session,
            local=own.target.local_drafter,
            verify=own.target.pass_ms / 1e3,
            width=own.target.nodes,
            draft=own.drafter.pass_ms / 1e3,
            rows=own.drafter.rows,
        )
        data_dir = self._home.data_dir.parent / name
        return peer_command(
            role, data_dir, name=name, seed=self._seed, setting=setting, slots=slots, law=own.law, part=part
        )

    def _token(self, role: Role) -> str:
        return issue_join_token(self._home, role=role).encode()

    async def _spawn(self, kind: str, wan: Wan) -> _Node:
        """A process that waits to join."""
        self._started += 1
        name = f"node-{self._started}"
        path = way(kind, wan, self._slow).path()
        relay = await self._relays.enter_async_context(
            relaying(path.delay, path.jitter, lambda connection: chance(self._seed, name, connection))
        )
        relay.towards(self._port)
        part = Part(kind, f"ws://127.0.0.1:{relay.port}{DRAFT_PATH}", self._slow)
        command = self._command(Role.NODE, name, slots=max(SLOTS, self._scenario.at_once), part=part)
        return _Node(await self._fleet.start(name, command), relay, kind, wan)

    def _join(self, node: _Node) -> None:
        assert node.child.process.stdin is not None
        node.child.process.stdin.write(f"{self._token(Role.NODE)}\n".encode())

    async def _lose(self) -> None:
        """One of those that draft, and what comes in its place."""
        async with self._asking:
            drafting = [node for node in self._alive if (await counts(node.child))["sessions"]]
            if not drafting:
                return
            node = self._rng.choice(drafting)
            if self._scenario.churn.silently:
                node.relay.partition()
            self._kill(node)
        after = self._scenario.churn.replaced_after_ms
        # One round trip of the four is that of WebSocket, which is really made.
        await asyncio.sleep((REPLACEMENT_ROUND_TRIPS - 1.0) * node.wan.rtt if after is None else after / 1e3)
        await self._replace(node)

    async def _replace(self, lost: _Node) -> None:
        part = lost.kind, lost.wan
        node = next((one for one in self._standbys if (one.kind, one.wan) == part), None)
        if node is None:
            node = await self._spawn(*part)
        else:
            self._standbys.remove(node)
        self._join(node)
        await node.child.ready(READY_SECONDS)
        self._alive.append(node)
        self._troubles.beset(node.kind, node.relay)

    async def _kill_share(self) -> None:
        churn = self._scenario.churn
        await asyncio.sleep(churn.kill_at_ms / 1e3)
        for node in self._rng.sample(self._alive, round(churn.kill_share * len(self._alive))):
            self._kill(node)

    def _kill(self, node: _Node) -> None:
        self.lost += 1
        self._alive.remove(node)
        self._fleet.forget(node.child)
        node.child.kill()
