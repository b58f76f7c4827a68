"""A whole target and real nodes over in-memory links: whatever the nodes do, the tokens are the target's own."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from node.draft_link import DraftLink
from node.drafting import DraftingEngine
from node.lease_checks import Held
from node.limits import LendingLimits
from tests.support.scripted_models import ScriptedModel
from tests.support.session_rows import SureTable
from tests.support.target_kit import (
    CoordinatorEnd,
    FakeNode,
    Mint,
    dial_target,
    prefix_hash,
    request,
    scripted_target,
    target_alone,
    until,
)
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import LinkClosed, PeerRefused
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.memory import MemoryTransport, Path
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.node_to_target import Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import Finished, Receipt, Receipts, TargetMessage, Tokens
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import issue
from wanspec_p2p.speculation.calibration import RANKS, RankTable
from wanspec_p2p.speculation.tree import chain_hash
from wanspec_p2p.types import PeerId, Sampling, TokenId

TARGET_PASS, DRAFTER_PASS = 0.020, 0.004
"""Seconds of one forward pass."""
TOKENS = 40
PROMPTS = {"r1": (1, 2, 3), "r2": (200,), "r3": tuple(range(30)), "r4": (7, 7, 7, 7)}

SAMPLINGS = {
    "greedy": Sampling(),
    "warm": Sampling(temperature=0.8),
    "everything": Sampling(
        temperature=1.0,
        top_p=0.9,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        logit_bias=((17, 4.0), (3, -100.0)),
    ),
}


class World:
    """One target, its coordinator, and whichever nodes a test adds."""

    def __init__(self, drafters: int = 2) -> None:
        self.clock = LoopClock()
        self.identity = Identity.generate()
        self.mint = Mint(self.clock, self.identity)
        self.coordinator = CoordinatorEnd(self.mint.identity, self.identity, self.clock)
        self.model = ScriptedModel(seed=1, before_forward=lambda batch: asyncio.sleep(TARGET_PASS))
        self.target = scripted_target(
            self.identity, self.mint.identity, self.model, self.clock, self.coordinator.dial, drafters=drafters
        )
        self.stop = asyncio.Event()
        self.answers: dict[str, list[TokenId]] = {}
        self.finished: dict[str, Finished] = {}
        self.receipts: list[Receipt] = []
        self.transports: list[MemoryTransport] = []
        self.engines: list[DraftingEngine] = []
        self._tasks: list[asyncio.Task[object]] = []
        self._ends: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        self._serving = asyncio.create_task(
            self.target.serve("ws://127.0.0.1:1/wanspec/draft", None, "", lambda pool: None, self.stop)
        )
        self.link, _ = await self.coordinator.taken_in()

    async def close(self) -> None:
        """Leave in order; nothing of anybody may be left."""
        self.stop.set()
        await self._serving
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._ends, return_exceptions=True)
        await self.coordinator.close()
        assert self.target.desk.active == self.target.engine.serving == self.target.engine.queued == 0
        assert self.target.pool is not None
        assert self.target.pool.attached == [] and self.target.pool.sessions == 0
        assert self.model.caches == {}

    # Nodes

    def spawn(self, coroutine: Awaitable[object]) -> None:
        self._tasks.append(asyncio.ensure_future(coroutine))

    async def dial(self, identity: Identity, *, there: Path | None = None, back: Path | None = None) -> FakeNode:
        node, end = await dial_target(
            self.target.admit, identity, self.identity.peer_id, self.clock, there=there, back=back
        )
        self._ends.append(end)
        self.transports.append(node.transport)
        return node

    def honest(
        self,
        drift: float = 0.0,
        *,
        seconds: float = DRAFTER_PASS,
        there: Callable[[], Path] = Path,
        back: Callable[[], Path] = Path,
        table: RankTable | None = None,
    ) -> DraftingEngine:
        """A node's own code, from its draft link to its engine, on a drafter that drifts from the target's model."""
        identity = Identity.generate()
        model = ScriptedModel(seed=1, drift=drift, before_forward=lambda batch: asyncio.sleep(seconds))
        engine = DraftingEngine(model, clock=self.clock)
        claims = self.mint.claims(identity.peer_id, owner=identity.peer_id, expires=int(self.clock.wall()) + 3600)

        async def dial(lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
            return (await self.dial(identity, there=there(), back=back())).link

        link = DraftLink(
            Held(claims, issue(self.mint.identity, claims), claims.addresses),
            engine,
            LendingLimits(slots=8, max_prefix=1000),
            dial=dial,
            backoff=Backoff(random.Random(2), first=0.2),
            clock=self.clock,
        )
        link.table = table or link.table
        self.spawn(engine.run())
        self.spawn(link.run())
        self.engines.append(engine)
        return engine

    async def fake(self, behaviour: Callable[[World, FakeNode], Awaitable[None]]) -> PeerId:
        """A node that speaks the protocol and behaves otherwise."""
        identity = Identity.generate()
        node = await self.dial(identity)
        await node.attach(self.mint.lease(identity.peer_id, owner=identity.peer_id))

        async def behave() -> None:
            try:
                await behaviour(self, node)
            except (LinkClosed, PeerRefused):
                return
            finally:
                await node.close()

        self.spawn(behave())
        return identity.peer_id

    async def attached(self, count: int) -> None:
        pool = self.target.pool
        assert pool is not None
        await until(lambda: len(pool.attached) >= count)

    # Answers

    async def ask(self, sampling: Sampling, *requests: str) -> None:
        """Send the requests together and listen until all are answered."""
        for name in requests:
            self.answers[name] = []
            await self.link.send(request(name, ids=PROMPTS[name], sampling=sampling, max_tokens=TOKENS))
        async with asyncio.timeout(600):
            while not self.finished.keys() >= set(requests):
                self._hear(await self.link.receive())

    async def hear_receipts(self, nodes: int) -> None:
        async with asyncio.timeout(60):
            while len(self.receipts) < nodes:
                self._hear(await self.link.receive())

    def _hear(self, message: TargetMessage) -> None:
        match message:
            case Tokens(request=name, ids=ids, position=position):
                assert position == len(self.answers[name]), "the answer has a gap"
                self.answers[name].extend(ids)
            case Finished(request=name):
                self.finished[name] = message
            case Receipts(receipts=receipts):
                self.receipts.extend(receipts)

    def right(self, name: str, sampling: Sampling) -> list[TokenId]:
        return target_alone(self.model, PROMPTS[name], TOKENS, sampling)

    def won(self) -> dict[PeerId, int]:
        """Positions each node settled, over all answers."""
        won: dict[PeerId, int] = {}
        for message in self.finished.values():
            for peer, count in message.usage.won_by_peer.items():
                won[peer] = won.get(peer, 0) + count
        return won

    def check(self, sampling: Sampling) -> None:
        for name, answer in self.answers.items():
            assert answer == self.right(name, sampling), name
            assert self.finished[name].usage.completion_tokens == TOKENS


@asynccontextmanager
async def world(drafters: int = 2) -> AsyncIterator[World]:
    made = World(drafters)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


# How nodes behave -----------------------------------------------------------------------------------------------------


class Sessions:
    """What a node that speaks the protocol knows of the sessions it was opened."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[int, tuple[Open, list[TokenId]]] = {}

    def learn(self, message: TargetToNode) -> tuple[Open, int, bytes] | None:
        """(the session, its committed length and hash) if it can be drafted for now."""
        match message:
            case Open(session=session, prefix=prefix):
                self._open[session] = (message, self._answer(message))
                return message, len(prefix), prefix_hash(message.id, prefix)
            case Verdict(session=session, committed_len=length, hash=chained):
                return self._open[session][0], length, chained
            case Close(session=session):
                del self._open[session]
        return None

    def right(self, opened: Open, length: int) -> list[TokenId]:
        """What the target will say after so many tokens."""
        return self._open[opened.session][1][length - opened.prompt_len :]

    def _answer(self, opened: Open) -> list[TokenId]:
        return target_alone(
            self._world.model, opened.prefix[: opened.prompt_len], TOKENS, opened.sampling, seed=opened.seed
        )


async def lie(world: World, node: FakeNode) -> None:
    """Right in the first token it sends, which is settled by the time it comes; wrong in every other: a chain below
    it, and every sibling it has room for."""
    sessions = Sessions(world)
    while True:
        if (place := sessions.learn(await node.link.receive())) is None:
            continue
        opened, length, chained = place
        right = sessions.right(opened, length)[: opened.window.positions]
        if not right:
            continue
        chain = (right[0], *((token + 1) % 256 for token in right[1:]))
        await node.link.send(Draft(opened.session, length, chained, chain, (), (127,) * len(chain)))
        if len(right) < 2:
            continue
        room = min(opened.window.tokens - len(chain), limits.MAX_DRAFT_TOKENS)
        star = tuple((right[1] + by) % 256 for by in range(2, 2 + room))
        below = chain_hash(chained, right[0])
        await node.link.send(Draft(opened.session, length + 1, below, star, (-1,) * len(star)))


async def say_nothing(world: World, node: FakeNode) -> None:
    while True:
        await node.link.receive()


async def repeat_itself(world: World, node: FakeNode) -> None:
    """Right, but everything comes twice, the last frame of the round before comes again, and half of it is late."""
    sessions = Sessions(world)
    before: dict[int, Draft] = {}
    while True:
        if (place := sessions.learn(await node.link.receive())) is None:
            continue
        opened, length, chained = place
        right = tuple(sessions.right(opened, length)[:8])
        if not right:
            continue
        draft = Draft(opened.session, length, chained, right, (), ())
        if length % 2:
            await asyncio.sleep(1.5 * TARGET_PASS)  # the target has gone on meanwhile
        for frame in (draft, before.get(opened.session, draft), draft):
            await node.link.send(frame)
        before[opened.session] = draft


async def draft_trees(world: World, node: FakeNode) -> None:
    """The right path hidden among wrong branches, extended below what it drafted itself, not below what is settled."""
    sessions = Sessions(world)
    while True:
        if (place := sessions.learn(await node.link.receive())) is None:
            continue
        opened, length, chained = place
        right = sessions.right(opened, length)[:5]  # the first of them is settled by the time they come
        if len(right) < 5:
            continue
        wrong = tuple((token + 9) % 256 for token in right[:2])
        first, second = right[:2]
        await node.link.send(
            Draft(opened.session, length, chained, (wrong[0], first, wrong[1], second), (-1, -1, 1, 1), ())
        )
        below = chain_hash(chain_hash(chained, first), second)
        await node.link.send(Draft(opened.session, length + 2, below, tuple(right[2:]), (), ()))


# The matrix -----------------------------------------------------------------------------------------------------------


async def no_node(world: World, sampling: Sampling) -> None:
    await world.ask(sampling, "r1", "r2")
    assert world.won() == {}
    assert all(message.usage.rounds == TOKENS for message in world.finished.values())


async def three_honest_nodes(world: World, sampling: Sampling) -> None:
    for drift, seconds in ((0.0, 0.010), (0.1, 0.006), (0.3, 0.004)):  # the better, the slower
        world.honest(drift, seconds=seconds)
    await world.attached(3)
    await world.ask(sampling, "r1", "r2", "r3")
    assert len(world.won()) >= 2
    assert sum(world.won().values()) > 3 * TOKENS * 0.4
    await world.hear_receipts(9)
    assert sum(receipt.won for receipt in world.receipts) == sum(world.won().values())


async def a_liar(world: World, sampling: Sampling) -> None:
    await world.fake(lie)
    await world.attached(1)
    await world.ask(sampling, "r1", "r2")
    assert world.won() == {}
    assert all(message.usage.drafted > 0 for message in world.finished.values()), "the lies were verified"


async def a_liar_beside_an_honest_node(world: World, sampling: Sampling) -> None:
    liar = await world.fake(lie)
    world.honest()
    await world.attached(2)
    await world.ask(sampling, "r1", "r2")
    assert world.won() and liar not in world.won()


async def a_node_that_never_answers(world: World, sampling: Sampling) -> None:
    await world.fake(say_nothing)
    await world.attached(1)
    await world.ask(sampling, "r1", "r2")
    assert world.won() == {}
    assert {(receipt.drafted, receipt.verified, receipt.won) for receipt in world.receipts} == {(0, 0, 0)}


async def a_link_cut_in_mid_answer(world: World, sampling: Sampling) -> None:
    world.honest()
    await world.attached(1)

    async def cut() -> None:
        for _ in range(3):
            await asyncio.sleep(6 * TARGET_PASS)
            world.transports[-1].disconnect()

    world.spawn(cut())
    await world.ask(sampling, "r1", "r3")
    await world.ask(sampling, "r2")  # and the node is back
    await world.attached(1)
    assert len(world.transports) > 2
    assert sum(world.won().values()) > 0


async def duplicated_and_late_drafts(world: World, sampling: Sampling) -> None:
    node = await world.fake(repeat_itself)
    await world.attached(1)
    await world.ask(sampling, "r1", "r2")
    assert world.won()[node] > TOKENS * 0.4
    assert sum(message.usage.late for message in world.finished.values()) > 0
    assert world.target.pool is not None and world.target.pool.attached == [node], "clumsy, but within its credit"


async def trees_and_branches(world: World, sampling: Sampling) -> None:
    node = await world.fake(draft_trees)
    await world.attached(1)
    await world.ask(sampling, "r1", "r2")
    assert world.won()[node] > TOKENS * 0.5
    assert (
        max(
            accepted
            for message in world.finished.values()
            for rounds in message.usage.accepted_by_length.values()
            for accepted, count in enumerate(rounds)
            if count
        )
        == 4
    )


async def four_sessions_at_once(world: World, sampling: Sampling) -> None:
    for drift in (0.0, 0.1):
        world.honest(drift)
    await world.attached(2)
    await world.ask(sampling, *PROMPTS)
    assert all(message.usage.won_by_peer for message in world.finished.values())


async def slow_and_stalling_links(world: World, sampling: Sampling) -> None:
    for delay in (0.03, 0.2):
        world.honest(
            there=lambda delay=delay: Path(delay=delay, jitter=delay),  # type: ignore[misc]  # bound as a default
            back=lambda delay=delay: Path(delay=delay, jitter=delay, bandwidth=20_000),  # type: ignore[misc]
        )
    await world.attached(2)

    async def stall() -> None:
        while True:
            await asyncio.sleep(0.2)
            world.transports[0].stall()
            await asyncio.sleep(0.15)
            world.transports[0].resume()

    world.spawn(stall())
    await world.ask(sampling, "r1", "r2", "r3")
    assert world.won()


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize(
    "condition",
    [
        no_node,
        three_honest_nodes,
        a_liar,
        a_liar_beside_an_honest_node,
        a_node_that_never_answers,
        a_link_cut_in_mid_answer,
        duplicated_and_late_drafts,
        trees_and_branches,
        four_sessions_at_once,
        slow_and_stalling_links,
    ],
    ids=lambda condition: condition.__name__,
)
@in_virtual_time
async def test_the_tokens_are_those_of_the_target_alone(
    condition: Callable[[World, Sampling], Awaitable[None]], sampling: Sampling
) -> None:
    async with world(drafters=3) as made:
        await condition(made, sampling)
        made.check(sampling)
        await nodes_idle(made)


async def nodes_idle(world: World) -> None:
    """Every session of every node ends with its answer, and its cache goes."""
    await until(lambda: not any(engine.sessions for engine in world.engines))
    await asyncio.sleep(0.1)
    for engine in world.engines:
        assert isinstance(engine.model, ScriptedModel)
        assert engine.model.caches == {}


@in_virtual_time
async def test_honest_drafts_make_an_answer_come_in_fewer_passes() -> None:
    async with world(drafters=1) as made:
        made.honest()
        await made.attached(1)
        await made.ask(Sampling(), "r1")
        usage = made.finished["r1"].usage
        assert usage.rounds < TOKENS / 2
        assert usage.seconds < TOKENS * TARGET_PASS / 2
        await nodes_idle(made)


@pytest.mark.parametrize("drift", [0.1, 0.3, 0.6])
@in_virtual_time
async def test_the_acceptance_that_is_measured_is_that_of_the_two_models(drift: float) -> None:
    async with world(drafters=1) as made:
        engine = made.honest(drift, table=SureTable())  # it drafts a chain of its first candidates
        await made.attached(1)
        await made.ask(Sampling(), *PROMPTS)
        reached, right = await judged(made)
        # After a wrong draft the target settles a token alone: a drafter that is seldom right is seldom judged.
        assert 16 <= reached <= TOKENS * len(PROMPTS), "a position is judged once, however deep"
        expected = agreement(made, engine, 1)
        spread = math.sqrt(expected * (1.0 - expected) / reached)
        assert right / reached == pytest.approx(expected, abs=2.0 * spread)
        assert max(len(receipt.by_depth) for receipt in made.receipts) > 1
        await nodes_idle(made)


@pytest.mark.parametrize("drift", [0.1, 0.3, 0.6])
@in_virtual_time
async def test_a_drafter_that_names_alternatives_is_right_where_one_of_them_is(drift: float) -> None:
    async with world(drafters=1) as made:
        engine = made.honest(drift)
        await made.attached(1)
        await made.ask(Sampling(), *PROMPTS)
        reached, right = await judged(made)
        assert reached <= TOKENS * len(PROMPTS), "a position is judged once, however many candidates it has"
        assert agreement(made, engine, 1) < right / reached < agreement(made, engine, RANKS) + 0.05
        await nodes_idle(made)


async def judged(made: World) -> tuple[int, int]:
    """Positions that were decided with drafts for them, and those a draft was right about."""
    await made.hear_receipts(len(PROMPTS))
    counts = [pair for receipt in made.receipts for pair in receipt.by_depth]
    reached, right = (sum(column) for column in zip(*counts, strict=True))
    return reached, right


def agreement(made: World, engine: DraftingEngine, ranks: int) -> float:
    """Share of all positions where the target's token is among the drafter's best."""
    drafter = engine.model
    assert isinstance(drafter, ScriptedModel)
    agreed = [
        made.answers[name][at] in drafter.row([*prompt, *made.answers[name][:at]]).argsort()[-ranks:]
        for name, prompt in PROMPTS.items()
        for at in range(TOKENS)
    ]
    return sum(agreed) / len(agreed)


@in_virtual_time
async def test_a_target_that_stops_takes_its_sessions_off_the_nodes() -> None:
    made = World()
    await made.open()
    made.honest()
    await made.attached(1)
    await made.link.send(request("r1", ids=PROMPTS["r1"], max_tokens=4000))
    await until(lambda: made.engines[0].sessions > 0)
    await made.close()
    assert made.engines[0].sessions == 0
