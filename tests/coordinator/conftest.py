"""A coordinator without sockets: its app, its endpoints over in-memory transports, its ledger in a temporary file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from coordinator.app import create_app
from coordinator.endpoints import Endpoints
from coordinator.executor import Executor
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from tests.support.fake_target import FakePeer, FakeTarget, node_registration, target_registration
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.links.memory import MemoryTransport, memory_transports
from wanspec_p2p.protocol.node_to_coordinator import RegisterNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role


@dataclass
class Rig:
    """What a test needs of one coordinator."""

    executor: Executor
    app: Starlette
    http: httpx2.AsyncClient
    clock: ManualClock
    endpoints: Endpoints
    serving: set[asyncio.Task[None]] = field(default_factory=set)
    peers: list[FakePeer] = field(default_factory=list)
    secrets: itertools.count[int] = field(default_factory=itertools.count)

    async def secret(self, role: Role, *, pool: str = "default", uses: int = 1, ttl: float = 3600.0) -> str:
        secret = f"secret {next(self.secrets)}"
        now = self.clock.wall()
        await self.executor.ledger.add_join_secret(secret, role=role, pool=pool, expires=now + ttl, uses=uses, now=now)
        return secret

    def transport(self, role: Role) -> MemoryTransport:
        """Our end of a connection that the coordinator serves."""
        ours, theirs = memory_transports()
        task = asyncio.create_task(self.endpoints.serve(theirs, role))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        return ours

    async def peer(
        self, registration: Any, *, kind: type[FakePeer] = FakePeer, identity: Identity | None = None, **options: Any
    ) -> Any:
        role = Role.NODE if isinstance(registration, RegisterNode) else Role.TARGET
        transport = self.transport(role)
        peer = await kind.join(
            transport, self.executor.identity.peer_id, registration, identity=identity, clock=self.clock, **options
        )
        self.peers.append(peer)
        return peer

    async def target(self, *, identity: Identity | None = None, pool: str = "default", **changes: Any) -> FakeTarget:
        secret = await self.secret(Role.TARGET, pool=pool)
        target: FakeTarget = await self.peer(target_registration(secret, **changes), kind=FakeTarget, identity=identity)
        return target

    async def node(
        self,
        *,
        identity: Identity | None = None,
        pool: str = "default",
        features: tuple[str, ...] = (),
        **changes: Any,
    ) -> FakePeer:
        secret = await self.secret(Role.NODE, pool=pool)
        node: FakePeer = await self.peer(node_registration(secret, **changes), identity=identity, features=features)
        return node

    async def close(self) -> None:
        for peer in self.peers:
            await peer.close()
        if self.serving:
            await asyncio.wait(self.serving)
        await self.http.aclose()
        await self.executor.ledger.close()


@contextlib.asynccontextmanager
async def coordinator_rig(settings: CoordinatorSettings) -> AsyncIterator[Rig]:
    clock = ManualClock()
    ledger = SqliteLedger(settings.ledger_file)
    counter = itertools.count(1)
    executor = Executor(
        settings,
        Identity.generate(),
        ledger,
        clock,
        rng=random.Random(1),
        new_id=lambda: f"{next(counter):032x}",
        tallies=await ledger.tallies(),
    )
    await executor.recover()
    app = create_app(executor, random_seed=lambda: bytes(range(16)))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1")
    rig = Rig(executor, app, http, clock, Endpoints(executor))
    try:
        async with asyncio.timeout(20):
            yield rig
    finally:
        async with asyncio.timeout(20):
            await rig.close()


@pytest.fixture
def settings(tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(data_dir=tmp_path / "data")


@pytest.fixture
async def rig(settings: CoordinatorSettings) -> AsyncIterator[Rig]:
    async with coordinator_rig(settings) as rig:
        yield rig
