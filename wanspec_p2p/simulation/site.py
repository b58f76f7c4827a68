"""One target with the nodes that draft for it, all of shipped code: what the experiments play answers on.

Everything above `Link` and `LanguageModel` is what runs in the field: sessions, runners, pool, draft links, drafting
engines, the handshake, leases and codecs. Left out are the coordinator (nodes hold leases for good), text, TLS and
WebSockets. Runs in virtual time only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wanspec_p2p.errors import WanspecError
from wanspec_p2p.links.memory import MemoryTransport
from wanspec_p2p.links.peer import accept
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_NODE
from wanspec_p2p.simulation.drafting_node import NodeSpec, SimulatedNode
from wanspec_p2p.simulation.identities import chance, identity
from wanspec_p2p.simulation.laws import VOCAB_SIZE
from wanspec_p2p.simulation.loop import SimulatedClock
from wanspec_p2p.simulation.metering import MeteredModel, Work, traced
from wanspec_p2p.simulation.models import EndsLast
from wanspec_p2p.simulation.trace import Trace, Watched
from wanspec_p2p.speculation.instructions import Emit
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import FinishReason, Role, Sampling, SessionId, TokenId

__all__ = ["Answer", "Site", "question", "run_answer"]

ANSWER_SECONDS = 3600.0
"""Virtual time that an answer, or a node's way to the target, may take before something must be wrong."""
GREEDY = Sampling()
_LOOK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one session.

    Attributes:
        seconds: virtual time from its start to its end; waiting for a slot is not counted.
        settled_at: for each token, seconds from the start until it was settled.
        target: work of the target meanwhile, for every session there was.
        nodes: work of each node meanwhile, by name.
    """

    tokens: tuple[TokenId, ...]
    reason: FinishReason
    seconds: float
    settled_at: tuple[float, ...]
    stats: SessionStats
    target: Work
    nodes: dict[str, Work]

    @property
    def draft_passes(self) -> int:
        """On all nodes."""
        return sum(work.passes for work in self.nodes.values())


class Site(Watched):
    """Use as an asynchronous context manager: the nodes are attached when its body begins. At its end it raises what
    went wrong unseen: `ErrorsLogged`, or the exception that ended a node's task.

    Args:
        seed: of keys, nonces and whatever the links draw.
        nodes: they are called node-0, node-1, ….
        drafters: how many each session gets, where there are so many.
        slots: sessions the target serves at once.
        local: the target's own drafter.
        hedge: whether another drafter is opened beside one that has gone silent.
        knowledge: what the target has learned before.
        trace: passes, frames, tokens and errors are noted there.
    """

    def __init__(
        self,
        target: LanguageModel,
        nodes: Sequence[NodeSpec] = (),
        *,
        seed: int = 0,
        drafters: int = 2,
        slots: int = 1024,
        local: LanguageModel | None = None,
        hedge: bool = True,
        knowledge: Knowledge | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(trace)
        self.clock = SimulatedClock()
        self.model = MeteredModel(EndsLast(target), "target", trace)
        self.knowledge = knowledge or Knowledge()
        own = None if local is None else MeteredModel(EndsLast(local), "local", trace)
        self.engine = Engine(self.model, slots, self.knowledge, own)
        self.nodes: list[SimulatedNode] = []
        self._seed, self._specs = seed, nodes
        self._identity, self._coordinator = identity(seed, "target"), identity(seed, "coordinator")
        self._rng, self._pings = chance(seed, "target", "handshakes"), chance(seed, "target", "pings")
        self._changed = asyncio.Event()
        self._ends: dict[asyncio.Task[None], None] = {}
        self.pool = DrafterPool(
            me=self._identity.peer_id,
            coordinator=self._coordinator.public_key,
            per_session=drafters,
            clock=self.clock,
            arrived=lambda node: self._changed.set(),
            short=self._changed.set,
            tokenizer=target.info.tokenizer,
            hedge=hedge,
        )

    async def _open(self) -> None:
        for spec in self._specs:
            self.add(spec)
        await self.attached(len(self._specs))

    async def _close(self) -> None:
        for node in self.nodes:
            node.heal()
        left = await asyncio.gather(*(node.leave() for node in self.nodes), return_exceptions=True)
        self.pool.close()
        await asyncio.gather(*self._ends)
        for fault in filter(None, left):
            raise fault

    def add(self, spec: NodeSpec) -> SimulatedNode:
        """One more node; it dials at once."""
        node = SimulatedNode(
            spec,
            f"node-{len(self.nodes)}",
            seed=self._seed,
            target=self._identity.peer_id,
            coordinator=self._coordinator,
            accept=self._admit,
            clock=self.clock,
            trace=self.trace,
        )
        self.nodes.append(node)
        return node

    async def attached(self, count: int) -> None:
        """Wait until so many nodes are."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(self.pool.attached) < count:
                self._changed.clear()
                await self._changed.wait()

    async def idle(self) -> None:
        """Wait until no node drafts any more: what an answer that has ended set off is over, and counted."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not all(node.idle for node in self.nodes):  # noqa: ASYNC110  # nobody tells; looking is cheap
                await asyncio.sleep(_LOOK_SECONDS)

    @property
    def target_work(self) -> Work:
        model = self.model
        return Work(model.passes, model.segments, model.rows, model.busy)

    @property
    def node_work(self) -> dict[str, Work]:
        return {node.name: node.work for node in self.nodes}

    async def play(
        self,
        spec: SessionSpec,
        policy: Policy | None = None,
        *,
        alone: bool = False,
        settled: Callable[[TargetSession], None] = lambda session: None,
    ) -> Answer:
        """One session, from a slot at the target to its end; others may run beside it.

        Args:
            alone: nobody else runs, so count also what the nodes draft until they learn that the answer has ended.
            settled: called with the session whenever a round has settled tokens; must not change it.

        Raises:
            EngineError: the model failed.
            TimeoutError: it took longer than `ANSWER_SECONDS`.
        """
        session = TargetSession(spec, policy, self.knowledge, local=self.engine.draft_reach)
        tokens: list[TokenId] = []
        settled_at: list[float] = []

        def emit(emitted: Emit) -> None:
            tokens.extend(committed.token for committed in emitted.tokens)
            settled_at.extend([self.clock.monotonic() - begun] * len(emitted.tokens))
            if self.trace is not None:
                self.trace.note("settled", session=spec.session, tokens=len(tokens))
            settled(session)

        runner = SessionRunner(session, self.engine, self.pool, emit, self.clock)
        async with asyncio.timeout(ANSWER_SECONDS), self.engine.slot():
            begun, target, nodes = self.clock.monotonic(), self.target_work, self.node_work
            reason = await runner.run()
            seconds = self.clock.monotonic() - begun
        if self.trace is not None:
            self.trace.note("answered", session=spec.session, seconds=seconds, reason=reason.value)
        if alone:
            await self.idle()
        return Answer(
            tuple(tokens),
            reason,
            seconds,
            tuple(settled_at),
            session.stats,
            self.target_work - target,
            {name: work - nodes.get(name, Work()) for name, work in self.node_work.items()},
        )

    def _admit(self, transport: MemoryTransport, node: str) -> None:
        task = asyncio.create_task(self._serve(transport, node), name=f"target's end for {node}")
        self._ends[task] = None
        task.add_done_callback(self._ends.pop)

    async def _serve(self, transport: MemoryTransport, node: str) -> None:
        """As a listener's handler does it."""
        seen = traced(transport, "target", node, self.trace)
        try:
            link = await accept(
                seen,
                AT_TARGET_FROM_NODE,
                identity=self._identity,
                role=Role.TARGET,
                roles=frozenset({Role.NODE}),
                clock=self.clock,
                nonce=self._rng.randbytes,
                pings=self._pings.randbytes,
            )
            await self.pool.serve(link)
        except WanspecError as error:
            if self.trace is not None:
                self.trace.note("link lost", node=node, reason=str(error))
        finally:
            await seen.close()


def question(
    name: str,
    prompt: Sequence[TokenId],
    tokens: int,
    sampling: Sampling = GREEDY,
    seed: bytes = bytes(16),
) -> SessionSpec:
    """An answer of so many tokens, greedy where nothing else is said."""
    return SessionSpec(SessionId(name), tuple(prompt), seed, sampling, VOCAB_SIZE, tokens)


async def run_answer(site: Site, spec: SessionSpec, policy: Policy | None = None) -> Answer:
    """Play one answer with the site to itself."""
    return await site.play(spec, policy, alone=True)
