"""A coordinator, a target and a node: the services themselves, on loopback, with models that need no weights."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import coordinator.service
from coordinator.admin import issue_join_token
from coordinator.settings import CoordinatorSettings
from node import daemon
from node.settings import NodeSettings
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.target import service
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role

__all__ = ["WholeNetwork", "coordinator_in_a_thread", "free_port", "running", "scripted", "until"]

PATIENCE = 30.0


def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target serves one scripted model, and every node drafts with the same: half of its drafts are right."""

    async def serve(name: str, **how: object) -> ScriptedModel:
        return ScriptedModel(1, name="big")

    async def draft(name: str, **how: object) -> ScriptedModel:
        return ScriptedModel(1, drift=0.1, name="small")

    monkeypatch.setattr(service, "load_language_model", serve)
    monkeypatch.setattr(service, "load_tokenizer", lambda name, *, catalog: ByteTokenizer())
    monkeypatch.setattr(daemon, "load_language_model", draft)


def free_port() -> int:
    """For what must be known before a service starts."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], bool]) -> None:
    """Asks again and again, since nobody tells; fails after `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - files and other services set no event
            await asyncio.sleep(0.02)


class WholeNetwork:
    """Args:
    directory: where everybody keeps a data directory.
    settings: of the coordinator, besides its directory.
    """

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.settings = CoordinatorSettings(data_dir=directory / "coordinator", heartbeat=0.2, **settings)
        self.url = ""

    @contextlib.asynccontextmanager
    async def coordinator(self) -> AsyncIterator[str]:
        async with running(coordinator.service.run, self.settings) as self.url:
            yield self.url

    @contextlib.asynccontextmanager
    async def target(self, **settings: Any) -> AsyncIterator[str]:
        """Joined with a token the first time; later runs need none."""
        place = {"data_dir": self.directory / "target", "cache_dir": self.directory, "join": self.token(Role.TARGET)}
        async with running(service.run, TargetSettings(**place | {"drafters": 1} | settings)) as address:
            yield address

    @contextlib.asynccontextmanager
    async def node(self, **settings: Any) -> AsyncIterator[str]:
        place = {"data_dir": self.directory / "node", "cache_dir": self.directory, "join": self.token(Role.NODE)}
        async with running(daemon.run, NodeSettings(**place | settings)) as peer:
            yield peer

    def token(self, role: Role) -> str | None:
        known = (self.directory / role.value / "coordinator.json").exists()
        return None if known else issue_join_token(self.settings, role=role).encode()

    @staticmethod
    async def drafting(client: AsyncClient, *, drafters: int = 1) -> dict[str, Any]:
        """The state of the network once its target has so many drafters."""
        async with asyncio.timeout(PATIENCE):
            while True:
                state = await client.state()
                if any(target["drafters"] >= drafters for target in state["targets"]):
                    return state
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(run: Callable[..., Awaitable[None]], settings: Any) -> AsyncIterator[str]:
    """A service from its ready line to its ordered end."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(run(settings, ready=ready.set_result, stop=stop))
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        yield ready.result()
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(task, return_exceptions=True)
    task.result()


@contextlib.contextmanager
def coordinator_in_a_thread(settings: CoordinatorSettings) -> Iterator[None]:
    """For commands, which have event loops of their own."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    service = coordinator.service.run(settings, ready=lambda url: ready.set(), stop=stop)
    thread = threading.Thread(target=lambda: (loop.run_until_complete(service), loop.close()))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
