"""A real network on this machine for benchmarks and tests: coordinator, target and nodes, each its own process."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from wanspec_p2p.cli.coordinator_child import start_coordinator
from wanspec_p2p.cli.processes import Child, Fleet, wanspec_command
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.simulation.adversaries import Kind
from wanspec_p2p.words import counted

__all__ = ["Cluster"]

READY_SECONDS = 180.0
ATTACH_SECONDS = 60.0
POLL_SECONDS = 0.05


class Cluster:
    """Made by `Cluster.running`."""

    def __init__(
        self,
        fleet: Fleet,
        directory: Path,
        environment: Mapping[str, str],
        *,
        url: str,
        cache: Path,
        model: str,
        drafter: str,
        drafters: int,
        local_drafter: str | None,
    ) -> None:
        self._fleet, self._directory, self._environment = fleet, directory, dict(environment)
        self._local_drafter = local_drafter
        self._cache, self._model, self._drafter, self._drafters = cache, model, drafter, drafters
        self._numbers, self._runs = itertools.count(1), itertools.count(1)
        self._peers: dict[str, str] = {}
        self.url = url
        self.coordinator: Child
        self.targets: dict[str, Child] = {}
        self.nodes: dict[str, Child] = {}

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        fleet: Fleet,
        directory: Path,
        environment: Mapping[str, str],
        *,
        cache: Path,
        model: str,
        drafter: str,
        drafters: int = 3,
        targets: int = 1,
        local_drafter: str | None = None,
    ) -> AsyncIterator[Cluster]:
        """A coordinator and targets that have joined it; they end with the fleet.

        Args:
            drafter: the honest nodes' model.
            drafters: nodes for one session; more of them wait for their turn.
            local_drafter: the targets' own.
        """
        cluster = cls(
            *(fleet, directory, environment),
            url="",
            cache=cache,
            model=model,
            drafter=drafter,
            drafters=drafters,
            local_drafter=local_drafter,
        )
        await cluster.start_coordinator()
        await asyncio.gather(*(cluster.start_target(f"target-{number}") for number in range(1, targets + 1)))
        for target in cluster.targets.values():
            await fleet.while_alive(target.ready(READY_SECONDS))
        try:
            yield cluster
        finally:
            await cluster.stop_nodes()

    async def start_coordinator(self) -> None:
        """Also again, at the same address, after it was killed."""
        home, port = self._directory / "coordinator", urlsplit(self.url).port or 0
        self.coordinator, self.url = await start_coordinator(
            self._fleet, home, READY_SECONDS, name=self._log_name("coordinator"), port=port
        )

    async def give_local_drafter(self, name: str) -> None:
        """End the targets in order, and start the same ones again with a drafter of their own, `name`."""
        self._local_drafter = name
        for target, child in list(self.targets.items()):
            await child.stop()
            self._fleet.forget(child)
            await self._fleet.while_alive((await self.start_target(target)).ready(READY_SECONDS))

    async def start_target(self, name: str) -> Child:
        """Not waited for. A name that has been used is the same target, started again."""
        home = self._directory / name
        joined = (home / "coordinator.json").exists()
        own = () if self._local_drafter is None else ("--local-drafter", self._local_drafter)
        self.targets[name] = child = await self._fleet.start(
            self._log_name(name),
            wanspec_command(
                *(("target", "run") if joined else ("target", "join", "-", "--name", name)),
                *("--model", self._model, *own, "--data-dir", str(home)),
                # One thread: the nodes need the rest of this machine.
                *("--drafters", str(self._drafters), "--threads", "1", "--json", "--with-parent"),
            ),
            secret=None if joined else await self.token("target"),
        )
        return child

    def _log_name(self, name: str) -> str:
        """One log for each time it is started."""
        return f"{name}-run-{next(self._runs)}"

    async def token(self, role: str) -> str:
        command = wanspec_command(
            *("coordinator", "token", "--role", role, "--data-dir", str(self._directory / "coordinator"), "--json")
        )
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
        )
        out, err = await process.communicate()
        if process.returncode:
            raise WanspecError(f"no join token: {err.decode(errors='replace').strip()}")
        return str(json.loads(out)["token"])

    async def start_node(self, kind: Kind) -> Child:
        name = f"{kind}-{next(self._numbers)}"
        child = await self._fleet.start(
            name,
            [
                *(sys.executable, "-P", "-m", "wanspec_p2p.simulation.adversaries", kind.value),
                *("--data-dir", str(self._directory / name), "--cache-dir", str(self._cache)),
                *("--model", self._drafter),
            ],
            secret=await self.token("node"),
        )
        self.nodes[name] = child
        self._peers[name] = str((await child.ready(READY_SECONDS))["peer"])
        return child

    async def have(self, kinds: Sequence[Kind], client: AsyncClient) -> None:
        """Exactly these nodes, attached to the target; those that are there already and fit stay."""
        await self.start_nodes(kinds)
        await self.attached(client)

    async def start_nodes(self, kinds: Sequence[Kind]) -> None:
        """Exactly these nodes, registered."""
        wanted = list(kinds)
        for name, child in list(self.nodes.items()):
            kind = Kind(name.partition("-")[0])
            if kind in wanted and child.process.returncode is None:
                wanted.remove(kind)
            else:
                await child.stop()
                del self.nodes[name]
        await asyncio.gather(*(self.start_node(kind) for kind in wanted))

    async def drafting(self, client: AsyncClient) -> str:
        """The name of a node that has a lease."""
        leased = {lease["node"] for lease in (await client.state())["leases"]}
        return next(name for name in self.nodes if self._peers[name] in leased)

    async def kill_a_drafter(self, client: AsyncClient) -> None:
        """SIGKILL to a node that drafts for the target now."""
        self.nodes.pop(await self.drafting(client)).kill()

    async def attached(self, client: AsyncClient) -> None:
        """Wait until the target has as many drafters as there are nodes, or as it takes."""
        count = min(len(self.nodes), self._drafters)
        drafters = -1
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                while drafters != count:
                    drafters = sum(target["drafters"] for target in (await client.state())["targets"])
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            found = counted(drafters, "drafter")
            raise WanspecError(f"the target has {found} after {ATTACH_SECONDS:g} s, not {count}") from None

    async def stop_nodes(self) -> None:
        await asyncio.gather(*(child.stop() for child in self.nodes.values()))
        self.nodes.clear()
