"""A coordinator and a target of real processes whose model only takes time: for loads that no real model could serve
on one machine. What is answered is known beforehand, token by token (`simulation.laws.Text`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from coordinator.admin import create_api_key, issue_join_token
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.cli.bench.holdings import Usage, Watched
from wanspec_p2p.cli.coordinator_child import start_coordinator
from wanspec_p2p.cli.processes import Child, Fleet
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.models import SIMULATED_TOKENIZER
from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.simulation.swarm_peers import SimulatedTokenizer
from wanspec_p2p.simulation.testbed_peer import peer_command
from wanspec_p2p.types import Role, TokenId

__all__ = ["Bed", "Reply", "loading"]

READY_SECONDS = 60.0
ANSWER_SECONDS = 600.0
SAMPLE_SECONDS = 1.0
MODEL = "simulated-target"


@dataclass(frozen=True, slots=True)
class Reply:
    """Of the coordinator: the ids of an answer that came to its end, or a refusal with its `retry-after`."""

    status: int
    ids: list[TokenId] | None
    retry_after: str | None


class Bed:
    """Made by `Bed.running`."""

    def __init__(self, fleet: Fleet, home: CoordinatorSettings, seed: int, setting: Setting, url: str) -> None:
        self.fleet, self.home, self.seed, self.setting = fleet, home, seed, setting
        key = create_api_key(home, "bench")
        # The load has connections of its own, so that they can be closed before anything is counted.
        self.http, self.load = (_client(url, key) for _ in range(2))
        self.services: dict[str, Child] = {}
        self._text, self._tokenizer = Text(seed), SimulatedTokenizer(SIMULATED_TOKENIZER)

    @classmethod
    @asynccontextmanager
    async def running(
        cls, fleet: Fleet, directory: Path, *, seed: int, setting: Setting, slots: int
    ) -> AsyncIterator[Bed]:
        home = CoordinatorSettings(data_dir=directory / "coordinator", port=0)
        coordinator, url = await start_coordinator(fleet, home.data_dir, READY_SECONDS)
        bed = cls(fleet, home, seed, setting, url)
        async with bed.http, bed.load:
            bed.services["coordinator"] = coordinator
            bed.services["target"] = target = await bed.start_peer(Role.TARGET, "target", slots=slots)
            await fleet.while_alive(target.ready(READY_SECONDS))
            yield bed

    async def start_peer(self, role: Role, name: str, *, slots: int = 8) -> Child:
        """Not waited for."""
        command = peer_command(
            role, self.home.data_dir.parent / name, name=name, seed=self.seed, setting=self.setting, slots=slots
        )
        return await self.fleet.start(name, command, secret=issue_join_token(self.home, role=role).encode())

    async def ask(self, prompt: str, tokens: int) -> Reply:
        """One streamed answer."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        async with self.load.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                return Reply(response.status_code, None, response.headers.get("retry-after"))
            ids: list[TokenId] = []
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return Reply(200, ids, None)
                if line.startswith("data: "):
                    ids.extend(json.loads(line[6:]).get("wanspec", {}).get("token_ids", ()))
        return Reply(200, None, None)

    def right(self, prompt: str, tokens: int) -> list[TokenId]:
        return self._text.continuation(self._tokenizer.encode(prompt), tokens)

    async def state(self) -> dict[str, Any]:
        response = await self.http.get("/api/state")
        return dict(response.raise_for_status().json())

    async def usage(self) -> dict[str, Usage]:
        """Of each service, by its name."""
        metrics = (await self.http.get("/metrics")).text
        tasks = {"coordinator": _value(metrics, "wanspec_tasks"), "target": await self._target_tasks()}
        found = {name: psutil.Process(child.process.pid) for name, child in self.services.items()}
        return {name: Usage(tasks[name], at.num_fds(), at.memory_info().rss) for name, at in found.items()}

    async def settled(self, before: Mapping[str, Usage], seconds: float) -> dict[str, Usage]:
        """What they hold once it is no more than `before`, or after so many seconds."""
        await self.load.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    after = await self.usage()
                    if not any(own.exceeds(before[name]) for name, own in after.items()):
                        break
                    await asyncio.sleep(SAMPLE_SECONDS)
        return await self.usage()

    async def _target_tasks(self) -> int:
        process = self.services["target"].process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"\n")
        async with asyncio.timeout(READY_SECONDS):
            return int(json.loads(await process.stdout.readline())["tasks"])

    async def watch(self, watched: Watched, clock: Clock) -> None:
        """Until it is cancelled."""
        found = {name: psutil.Process(child.process.pid) for name, child in self.services.items()}
        while True:
            for name, at in found.items():
                watched.rss.setdefault(name, []).append((clock.monotonic(), float(at.memory_info().rss)))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def health(self) -> Child:
        """Starts asking; `latencies` ends it."""
        command = [sys.executable, "-P", "-m", "wanspec_p2p.cli.bench.health", str(self.http.base_url)]
        return await self.fleet.start("health", command)

    @staticmethod
    async def latencies(child: Child) -> list[float]:
        """Seconds, in order."""
        process = child.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        async with asyncio.timeout(READY_SECONDS):
            found = json.loads(await process.stdout.read())
            await process.wait()
        if not found:
            raise WanspecError("/health was never asked: the run was too short")
        return [float(seconds) for seconds in found]


@asynccontextmanager
async def loading(*watching: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that load a bed, and what watches it until all of them have ended.

    Raises:
        Exception: the first that a task of the group raised; else one that ended the watching too early.
    """
    watches = [asyncio.create_task(watch) for watch in watching]
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        for watch in watches:
            watch.cancel()
        ended = await asyncio.gather(*watches, return_exceptions=True)
    for fault in ended:
        if isinstance(fault, Exception):
            raise fault


def _client(url: str, key: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_SECONDS, limits=limits)


def _value(metrics: str, name: str) -> int:
    return next(int(float(line.split()[1])) for line in metrics.splitlines() if line.startswith(f"{name} "))
