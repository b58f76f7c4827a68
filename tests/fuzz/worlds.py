"""What the frames are thrown at: a whole coordinator, target or node on in-memory links, in virtual time.

In each world somebody honest is served beside the attacker, and `unharmed` says so: the answers are right, the links
are the ones that were there before.
"""

from __future__ import annotations

import abc
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from coordinator.endpoints import Endpoints
from coordinator.executor import Executor
from coordinator.openai_schema import Asked
from coordinator.settings import CoordinatorSettings
from node.control import ControlLink
from node.coordinator_link import CoordinatorLink
from node.draft_link import DraftLink
from node.draft_links import DraftLinks
from node.drafting import DraftingEngine
from node.landmarks import LandmarkTimer
from node.limits import LendingLimits
from tests.fuzz.frames import Frames, Lore
from tests.support.fake_draft_target import FakeDraftTarget
from tests.support.fake_node_coordinator import FakeNodeCoordinator
from tests.support.fake_target import FakePeer, FakeTarget, answer_ids, node_registration, target_registration
from tests.support.node_facts import NodeFacts, drafter_model
from tests.support.scripted_models import ScriptedModel
from tests.support.target_kit import (
    NOWHERE,
    CoordinatorEnd,
    FakeNode,
    Mint,
    dial_target,
    names,
    request,
    scripted_target,
    target_alone,
)
from wanspec_p2p.errors import LinkClosed, PeerRefused, RequestError, Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.common_messages import CommonMessage
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode, Landmark, LeaseOffer
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage
from wanspec_p2p.protocol.node_to_target import Attach, NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import Finished, TargetMessage, Tokens
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import check
from wanspec_p2p.simulation.ledger import MemoryLedger
from wanspec_p2p.simulation.loop import SimulatedClock
from wanspec_p2p.types import Role, Sampling

__all__ = ["WORLDS", "World"]

PASS_SECONDS = 0.002
PATIENCE = 600.0
"""Virtual seconds within which somebody honest must be served."""


class World(abc.ABC):
    """Args:
    rng: every choice comes from it.

    Attributes:
        codes: how the attacker's links ended, by close code; None where without one.
    """

    frames: tuple[Any, ...]  # unions the attacker may say

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.clock = SimulatedClock()
        self.codes: Counter[int | None] = Counter()
        self._lore = Lore()
        self._link: PeerLink[Any] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._care = 0.0
        self.tasks: list[asyncio.Future[Any]] = []

    @abc.abstractmethod
    async def open(self) -> None: ...

    @abc.abstractmethod
    async def dialled(self) -> PeerLink[Any]:
        """A new link of the attacker's, after its handshake, with whatever has to be said first."""

    @abc.abstractmethod
    async def unharmed(self) -> None:
        """AssertionError, TimeoutError or the like if somebody honest is not served."""

    @abc.abstractmethod
    async def shut(self) -> None: ...

    async def strike(self, frames: Frames) -> str | bytes:
        """One hostile frame."""
        if self._link is None:
            self._link = await self.dialled()
            self._link._pulse._unanswered = sys.maxsize  # it pings past its own link
            self._listening = asyncio.create_task(self._listen(self._link))
            self._care = self.rng.choice((0.0, 0.9, 0.98))
        frame = frames.next(self.rng, self._lore, self._care)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._link._frames.transport.send(frame)
        except (LinkClosed, PeerRefused):
            await self.hang_up()
        for _ in range(self.rng.choice((0, 0, 1, 4))):
            await asyncio.sleep(0)
        if self.rng.random() < 0.02:
            await asyncio.sleep(self.rng.choice((0.01, 0.5, 3.0)))
        if self._listening is not None and self._listening.done():
            await self.hang_up()
        return frame

    async def hang_up(self) -> None:
        if self._link is None or self._listening is None:
            return
        link, self._link = self._link, None
        await link.close()
        await self._listening

    async def _listen(self, link: PeerLink[Any]) -> None:
        try:
            while True:
                message = await link.receive()
                self._lore.learn(msgspec.to_builtins(message, builtin_types=(bytes,)))
        except PeerRefused as error:
            self.codes[error.code] += 1
        except LinkClosed:
            self.codes[None] += 1

    async def close(self) -> None:
        await self.hang_up()
        async with asyncio.timeout(PATIENCE):
            await self.shut()
            for task in self.tasks:
                task.cancel()
            for outcome in await asyncio.gather(*self.tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome


class _Coordinator(World):
    """A coordinator; the attacker has enrolled as a node or as a target, or is nobody yet."""

    role: Role

    async def open(self) -> None:
        ledger = MemoryLedger(0.001)
        identity = Identity.generate()
        self.executor = Executor(
            CoordinatorSettings(data_dir=NOWHERE),
            identity,
            ledger,
            self.clock,
            rng=self.rng,
            new_id=names("id"),
            tallies={},
        )
        self.endpoints = Endpoints(self.executor)
        for secret, role in (("node", Role.NODE), ("target", Role.TARGET)):
            await ledger.add_join_secret(
                secret, role=role, pool="default", expires=self.clock.wall() + 1e6, uses=1000, now=self.clock.wall()
            )
        self.identity = Identity.generate()
        self.target: FakeTarget = await self._join(target_registration("target"), FakeTarget)
        self.node: FakePeer = await self._join(node_registration("node"), FakePeer)

    async def _join(self, registration: Any, kind: Any, identity: Identity | None = None) -> Any:
        role = Role.NODE if type(registration).__name__ == "RegisterNode" else Role.TARGET
        ours, theirs = memory_transports()
        self.tasks.append(asyncio.ensure_future(self.endpoints.serve(theirs, role)))
        return await kind.join(
            ours,
            self.executor.identity.peer_id,
            registration,
            identity=identity or Identity.generate(),
            clock=self.clock,
        )

    async def dialled(self) -> PeerLink[Any]:
        peer: _Silent = await self._join(self._registration(), _Silent, self.identity)
        return peer.link

    @abc.abstractmethod
    def _registration(self) -> Any: ...

    async def unharmed(self) -> None:
        asked = self._asked("big", 6)
        async with asyncio.timeout(PATIENCE):
            answer = self.executor.answers.open(asked)
            ids = [token async for tokens in answer for token in tokens.ids]
            answer.close()
        assert ids == answer_ids(asked.generate, 6)
        assert self.node.ended is None and self.target.ended is None
        registry = self.executor.registry
        assert len(registry.nodes) <= 2 and len(registry.targets) <= 2, "a ghost"
        await self._ask_the_attacker()

    def _asked(self, model: str, tokens: int) -> Asked:
        generate = request(self.executor.new_id(), max_tokens=tokens)
        return Asked(model=model, generate=generate, stream=True, include_usage=False, chat=False)

    async def _ask_the_attacker(self) -> None:
        """Whatever a hostile target makes of a request, it ends: with an answer or a typed error."""
        asked = self._asked("other", 3)
        try:
            answer = self.executor.answers.open(asked)
        except RequestError:
            return
        self.tasks.append(asyncio.create_task(_to_its_end(answer)))

    async def shut(self) -> None:
        await self.node.close()
        await self.target.close()
        await asyncio.gather(*self.tasks)
        registry = self.executor.registry
        assert not registry.nodes and not registry.targets and not registry.leases, "a ghost"
        assert len(self.executor.answers) == 0
        assert not self.endpoints._strangers


async def _to_its_end(answer: Any) -> None:
    try:
        async for _ in answer:
            pass
    except RequestError:
        pass
    finally:
        answer.close()


class _Silent(FakePeer):
    """Leaves its link to the attacker."""

    def __init__(self, link: PeerLink[Any], identity: Identity) -> None:
        self.link = link

    @classmethod
    async def join(cls, *arguments: Any, **options: Any) -> Any:
        return await super().join(*arguments, **options, registered=False)


class CoordinatorFromNode(_Coordinator):
    frames = (NodeMessage,)

    def _registration(self) -> Any:
        return node_registration("node", name="attacker")


class CoordinatorFromTarget(_Coordinator):
    frames = (TargetMessage,)

    def _registration(self) -> Any:
        registration = target_registration("target", name="attacker")
        return msgspec.structs.replace(registration, model=msgspec.structs.replace(registration.model, name="other"))


class _Target(World):
    async def open(self) -> None:
        self.identity, self.attacker = Identity.generate(), Identity.generate()
        self.mint = Mint(self.clock, self.identity)
        self.coordinator = CoordinatorEnd(self.mint.identity, self.identity, self.clock)
        self.model = ScriptedModel(seed=1, before_forward=lambda batch: asyncio.sleep(PASS_SECONDS))
        self.target = scripted_target(
            self.identity, self.mint.identity, self.model, self.clock, self.coordinator.dial, rng=self.rng, drafters=2
        )
        self.stop = asyncio.Event()
        self.request = names("request")
        self.serving = asyncio.create_task(
            self.target.serve("ws://127.0.0.1:1/wanspec/draft", None, "", lambda pool: None, self.stop)
        )

    async def answered(self, link: PeerLink[TargetMessage]) -> None:
        name = self.request()
        await link.send(request(name, max_tokens=12))
        ids: list[int] = []
        async with asyncio.timeout(PATIENCE):
            while not (isinstance(message := await link.receive(), Finished) and message.request == name):
                if isinstance(message, Tokens) and message.request == name:
                    ids.extend(message.ids)
        assert ids == target_alone(self.model, (1, 2, 3), 12, Sampling())

    async def shut(self) -> None:
        self.stop.set()
        await self.serving
        await self.coordinator.close()
        await asyncio.gather(*self.tasks)
        assert self.target.desk.active == self.target.engine.serving == self.target.engine.queued == 0
        assert self.model.caches == {}


class TargetFromNode(_Target):
    frames = (CommonMessage, NodeToTarget)

    async def open(self) -> None:
        await super().open()
        self.home, _ = await self.coordinator.taken_in()

    async def dialled(self) -> PeerLink[Any]:
        node: FakeNode
        node, end = await dial_target(self.target.admit, self.attacker, self.identity.peer_id, self.clock)
        self.tasks.append(end)
        if self.rng.random() < 0.9:
            await node.link.send(Attach(self.mint.lease(self.attacker.peer_id)))
            # Something to draft for while it is there.
            await self.home.send(request(self.request(), max_tokens=60))
        return node.link

    async def unharmed(self) -> None:
        await self.answered(self.home)


class TargetFromCoordinator(_Target):
    """The one in the coordinator's place has the right key: a coordinator of another release, or one gone mad."""

    frames = (CoordinatorToTarget,)

    async def dialled(self) -> PeerLink[Any]:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    link, _ = await self.coordinator.taken_in()
                    return link
                except (LinkClosed, PeerRefused):
                    continue

    async def unharmed(self) -> None:
        await self.hang_up()
        await self.answered(await self.dialled())
        await (await self._latest()).close()

    async def _latest(self) -> PeerLink[Any]:
        return self.coordinator._all[-1]


class _Node(World):
    """One model, an honest target, and somebody hostile at the end of another link."""

    async def open(self) -> None:
        self.model = ScriptedModel(1, before_forward=lambda batch: asyncio.sleep(PASS_SECONDS))
        self.facts = NodeFacts(model=drafter_model(self.model.info))
        self.facts.clock = self.clock  # type: ignore[assignment]  # what is virtual here is the loop
        self.engine = DraftingEngine(self.model, clock=self.clock)
        self.limits = LendingLimits(slots=4, max_prefix=64)
        self.honest = FakeDraftTarget(self.facts.target, self.facts.node, self.clock)
        self._drafting = asyncio.create_task(self.engine.run())
        self._serving = asyncio.create_task(self._draft_link(self.honest).run())
        self.link, _ = await self.honest.attached()
        self._sessions = iter(range(1, 1 << 20))

    def _draft_link(self, target: FakeDraftTarget) -> DraftLink:
        return DraftLink(
            self.facts.lease(target=target._identity),
            self.engine,
            self.limits,
            dial=target.dial,
            backoff=Backoff(self.rng),
            clock=self.clock,
        )

    async def unharmed(self) -> None:
        await self.hang_up()
        await asyncio.sleep(61.0)  # the longest pause after a model's failure
        session = next(self._sessions)
        prefix = (session % 256, 7)
        await self.link.send(self.honest.open(session, prefix, name=f"s{session}"))
        async with asyncio.timeout(PATIENCE):
            tokens = await self.honest.drafted(self.link, session, 1)
        assert tokens[0] == int(self.model.row(prefix).argmax())
        await self.link.send(self.honest.close_session(session))
        await asyncio.sleep(1.0)
        async with asyncio.timeout(PATIENCE):
            while self.link._inbox:
                await self.link.receive()

    async def shut(self) -> None:
        for task in (self._serving, *self.tasks):
            task.cancel()
        await asyncio.gather(self._serving, *self.tasks, return_exceptions=True)
        await self.honest.close()
        await asyncio.sleep(1.0)
        assert self.engine.sessions == 0
        assert self.model.caches == {}
        self.engine.stop()
        await self._drafting


class NodeFromTarget(_Node):
    frames = (CommonMessage, TargetToNode)

    async def open(self) -> None:
        await super().open()
        self.hostile = FakeDraftTarget(Identity.generate(), self.facts.node, self.clock)
        self.hostile._seconds = PATIENCE
        self.tasks.append(asyncio.ensure_future(_unless_refused(self._draft_link(self.hostile).run)))

    async def dialled(self) -> PeerLink[Any]:
        if self.tasks[-1].done():  # it was told to stay away for good
            self.tasks.append(asyncio.ensure_future(_unless_refused(self._draft_link(self.hostile).run)))
        return await self.hostile.next_link()

    async def shut(self) -> None:
        await super().shut()
        await self.hostile.close()
        self.tasks.clear()


class NodeFromCoordinator(_Node):
    frames = (CoordinatorToNode,)

    async def open(self) -> None:
        await super().open()
        self.coordinator = FakeNodeCoordinator(self.facts.coordinator, self.facts.node, self.clock)
        self.coordinator._seconds = PATIENCE
        self._start()

    def _start(self) -> None:
        self.links = DraftLinks(self._draft_link_of, lambda jti, reason: self.control.lease_lost(jti, reason))
        machine = CoordinatorLink(
            self.facts.registration(),
            secret="",
            enrolled=True,
            check=lambda text: check(
                text, coordinator=self.facts.coordinator.public_key, clock=self.clock, node=self.facts.node.peer_id
            ),
            limits=self.limits,
            loopback=lambda: True,
        )
        self.control = ControlLink(
            machine,
            self.engine,
            self.links,
            LandmarkTimer(self._time, clock=self.clock, rng=self.rng),
            dial=self.coordinator.dial,
            joined=lambda pool: None,
            backoff=Backoff(self.rng),
            clock=self.clock,
        )
        self.tasks.append(asyncio.ensure_future(_unless_refused(self.control.run)))

    async def _time(self, landmark: Landmark) -> float:
        if self.rng.random() < 0.5:
            raise Unreachable("nobody is there")
        return self.rng.random()

    def _draft_link_of(self, lease: Any) -> DraftLink:
        """To a target that nobody ever reaches."""

        async def dial(lease: Any, address: str) -> Any:
            raise LinkClosed("nobody is there")

        return DraftLink(lease, self.engine, self.limits, dial=dial, backoff=Backoff(self.rng), clock=self.clock)

    async def dialled(self) -> PeerLink[Any]:
        if self.tasks[-1].done():
            self._start()
        link = await self.coordinator.admitted() if self.rng.random() < 0.9 else await self.coordinator.next_link()
        offer = self.facts.lease()
        self._lore.learn([offer.text, offer.claims.jti])
        await link.send(LeaseOffer(offer.claims.jti, offer.text))
        return link

    async def shut(self) -> None:
        await self.links.abort()
        await super().shut()
        await self.coordinator.close()
        self.tasks.clear()


async def _unless_refused(run: Callable[[], Awaitable[object]]) -> None:
    try:
        await run()
    except PeerRefused:
        pass


WORLDS: dict[str, type[World]] = {
    "coordinator-from-node": CoordinatorFromNode,
    "coordinator-from-target": CoordinatorFromTarget,
    "target-from-node": TargetFromNode,
    "target-from-coordinator": TargetFromCoordinator,
    "node-from-target": NodeFromTarget,
    "node-from-coordinator": NodeFromCoordinator,
}
