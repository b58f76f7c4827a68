"""A target's drafter pool, and a whole target, each with in-memory links to whatever a test puts at their far ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.scripted_models import ScriptedModel
from tests.support.target_kit import (
    SECONDS,
    SEED,
    CoordinatorEnd,
    FakeNode,
    Mint,
    dial_target,
    scripted_target,
    target_alone,
    until,
)
from tests.support.virtual_time import LoopClock
from wanspec_p2p.links.memory import MemoryTransport, Path
from wanspec_p2p.links.peer import accept
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_NODE
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import FinishReason, PeerId, Role, Sampling, SessionId, TokenId

__all__ = ["ADDRESS", "PoolBench", "TargetBench", "running_target"]

ADDRESS = "ws://127.0.0.1:4711/wanspec/draft"


class PoolBench:
    """A drafter pool that nodes dial, and sessions on one model that take their drafters from it.

    For use with `in_virtual_time`, as an asynchronous context manager: nothing of it is left at the end.

    Attributes:
        gate: passes wait until it is set.
        came: links the pool has told of.
        went: how often it has said that one went, or that there are too few.
    """

    def __init__(self, per_session: int = 2, tokenizer: str | None = None) -> None:
        self.clock = LoopClock()
        self.target = Identity.generate()
        self.mint = Mint(self.clock, self.target)
        self.model = ScriptedModel(seed=1, before_forward=lambda batch: self._before())
        self.engine = Engine(self.model, slots=16)
        self.gate = asyncio.Event()
        self.came = self.went = 0
        self.answers: dict[str, list[TokenId]] = {}
        self.pool = DrafterPool(
            me=self.target.peer_id,
            coordinator=self.mint.identity.public_key,
            per_session=per_session,
            clock=self.clock,
            arrived=self._arrived,
            short=self._left,
            tokenizer=tokenizer,
        )
        self._serving: list[asyncio.Task[None]] = []
        self._nodes: list[FakeNode] = []
        self._running: list[asyncio.Task[FinishReason]] = []

    async def __aenter__(self) -> PoolBench:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.pool.close()
        for task in self._running:
            task.cancel()
        self.gate.set()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*self._serving, return_exceptions=True)
        for node in self._nodes:
            await node.close()
        assert self.pool.attached == []
        assert self.pool.sessions == 0
        assert self.model.caches == {}

    async def _before(self) -> None:
        await self.gate.wait()

    def _arrived(self, node: PeerId) -> None:
        self.came += 1

    def _left(self) -> None:
        self.went += 1

    async def admit(self, transport: MemoryTransport) -> None:
        link = await accept(
            transport,
            AT_TARGET_FROM_NODE,
            identity=self.target,
            role=Role.TARGET,
            roles=frozenset({Role.NODE}),
            clock=self.clock,
        )
        await self.pool.serve(link)

    async def dial(self, identity: Identity | None = None, *, back: Path | None = None) -> FakeNode:
        """A node that has shown no lease yet."""
        node, serving = await dial_target(
            self.admit, identity or Identity.generate(), self.target.peer_id, self.clock, back=back
        )
        self._nodes.append(node)
        self._serving.append(serving)
        return node

    async def node(self, identity: Identity | None = None, *, back: Path | None = None, **claims: object) -> FakeNode:
        """A node that has attached; `claims` of its lease may differ."""
        identity = identity or Identity.generate()
        node = await self.dial(identity, back=back)
        came = self.came
        await node.attach(self.mint.lease(identity.peer_id, **claims))
        await until(lambda: self.came > came)
        return node

    def session(
        self, name: str = "s", *, count: int = 8, sampling: Sampling | None = None, knowledge: Knowledge | None = None
    ) -> SessionRunner:
        """An answer under way; its tokens are in `answers`."""
        spec = SessionSpec(SessionId(name), (1, 2, 3), SEED, sampling or Sampling(), 256, count)
        answer = self.answers[name] = []
        runner = SessionRunner(
            TargetSession(spec, knowledge=knowledge),
            self.engine,
            self.pool,
            lambda emit: answer.extend(t.token for t in emit.tokens),
            self.clock,
        )
        self._running.append(asyncio.create_task(runner.run()))
        return runner

    async def finish(self) -> None:
        """Let every session come to its end; all are what the target alone says."""
        self.gate.set()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*self._running)
        for answer in self.answers.values():
            assert answer == target_alone(self.model, (1, 2, 3), len(answer), Sampling())


class TargetBench:
    """A whole target over in-memory links: `coordinator` is at the far end of its control link."""

    def __init__(self, secret: str = "", *, enrolled: bool = False, **settings: object) -> None:
        self.clock = LoopClock()
        self.identity = Identity.generate()
        self.mint = Mint(self.clock, self.identity)
        self.coordinator = CoordinatorEnd(self.mint.identity, self.identity, self.clock)
        self.model = ScriptedModel(seed=1)
        self.joined: list[str] = []
        self.stop = asyncio.Event()
        self.target = scripted_target(
            self.identity, self.mint.identity, self.model, self.clock, self.coordinator.dial, **settings
        )
        self.serving = asyncio.create_task(
            self.target.serve(ADDRESS, None, secret, self.joined.append, self.stop, enrolled=enrolled), name="target"
        )
        self._ends: list[asyncio.Task[None]] = []
        self._nodes: list[FakeNode] = []

    async def node(self, **claims: object) -> FakeNode:
        identity = Identity.generate()
        node, end = await dial_target(self.target.admit, identity, self.identity.peer_id, self.clock)
        self._ends.append(end)
        self._nodes.append(node)
        await node.attach(self.mint.lease(identity.peer_id, **claims))
        return node

    async def ended(self) -> None:
        """Let the target end of itself."""
        async with asyncio.timeout(60):
            await self.serving

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        await asyncio.gather(*self._ends, return_exceptions=True)
        for node in self._nodes:
            await node.close()
        await self.coordinator.close()
        assert self.target.desk.active == self.target.engine.serving == self.target.engine.queued == 0
        assert self.model.caches == {}
        assert self.target.pool is None or self.target.pool.attached == []


@asynccontextmanager
async def running_target(secret: str = "", **settings: object) -> AsyncIterator[TargetBench]:
    bench = TargetBench(secret, **settings)
    try:
        yield bench
    finally:
        await bench.close()
