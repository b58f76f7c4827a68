"""A coordinator and two targets of one engine over in-memory links, in virtual time; what hangs, dies and comes back is
drawn from a seed, which is the test's name. The answer must be the target's own, whatever happened."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from coordinator.answer import Answer
from coordinator.endpoints import Endpoints
from coordinator.events import Tick
from coordinator.executor import Executor
from coordinator.openai_schema import Asked
from coordinator.records import PeerState
from coordinator.settings import CoordinatorSettings
from coordinator.watch import HUNG_SECONDS
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_kit import SEED, names, target_alone, until
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import NoTarget, TargetLost, Unreachable
from wanspec_p2p.links.memory import MemoryTransport, memory_transports
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_COORDINATOR
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget, Generate
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.ledger import MemoryLedger
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import Target
from wanspec_p2p.types import Role, Sampling, TokenId

SEEDS = range(16)
NOWHERE = Path("/nowhere")
PROMPT, TOKENS = (1, 2, 3), 40
REGISTERED_SECONDS = 10.0
"""Promised: everybody is registered again so soon after a coordinator's return."""


class Member:
    """A target, its model, and its wire to the coordinator."""

    def __init__(self, network: Network, number: int, pass_seconds: float) -> None:
        self.wire: MemoryTransport
        self._network, self._identity = network, Identity.generate()
        self.model = ScriptedModel(seed=1, context=256, before_forward=lambda batch: asyncio.sleep(pass_seconds))
        self.target = Target(
            TargetSettings(data_dir=NOWHERE, cache_dir=NOWHERE, name=f"target {number}", drafters=0),
            self._identity,
            network.identity.public_key,
            self.model,
            ByteTokenizer(),
            network.clock,
            dial=self._dial,
            rng=random.Random(number),
            new_id=names(f"target {number}"),
        )
        self.serving = asyncio.create_task(
            self.target.serve("ws://127.0.0.1:1/wanspec/draft", None, "secret", lambda pool: None, asyncio.Event())
        )

    async def _dial(self) -> PeerLink[CoordinatorToTarget]:
        near, far = memory_transports()
        self._network.admit(far)
        self.wire = near
        return await connect(
            near,
            AT_TARGET_FROM_COORDINATOR,
            identity=self._identity,
            role=Role.TARGET,
            expect=self._network.identity.peer_id,
            clock=self._network.clock,
        )


class Network:
    def __init__(self, *, targets: int = 2, pass_seconds: float = 0.2) -> None:
        self.clock = LoopClock()
        self.identity = Identity.generate()
        self.ledger = MemoryLedger()
        self.executor: Executor
        self._count, self._pass_seconds = targets, pass_seconds
        self._requests = names("request")
        self._endpoints: Endpoints | None = None
        self._served: dict[MemoryTransport, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Network:
        await self.ledger.add_join_secret(
            "secret", role=Role.TARGET, pool="default", expires=1e12, uses=self._count, now=0.0
        )
        self.start()
        self.members = [Member(self, number, self._pass_seconds) for number in range(self._count)]
        await until(self.complete)
        return self

    async def __aexit__(self, *error: object) -> None:
        for member in self.members:
            member.serving.cancel()
        await asyncio.gather(*(member.serving for member in self.members), return_exceptions=True)
        self.kill()
        await asyncio.gather(self._ticking, return_exceptions=True)
        await asyncio.gather(*self._served.values())
        for member in self.members:
            assert member.model.caches == {}

    def start(self) -> None:
        """A coordinator process: it has its key and its ledger, and remembers nothing else."""
        settings = CoordinatorSettings(data_dir=NOWHERE)
        rng, ids = random.Random(1), itertools.count()
        self.executor = executor = Executor(
            settings,
            self.identity,
            self.ledger,
            self.clock,
            rng=rng,
            new_id=lambda: f"{next(ids):032x}",
            tallies={},
        )
        self._endpoints = Endpoints(executor)
        self._ticking = asyncio.create_task(self._tick(executor))

    def kill(self) -> None:
        self._endpoints = None
        self._ticking.cancel()
        for transport in self._served:
            transport.disconnect()

    async def _tick(self, executor: Executor) -> None:
        while True:
            executor.post(Tick(self.clock.monotonic()))
            await asyncio.sleep(0.25)

    def admit(self, transport: MemoryTransport) -> None:
        if self._endpoints is None:
            raise Unreachable("nobody answers")
        task = asyncio.create_task(self._endpoints.serve(transport, Role.TARGET))
        self._served[transport] = task
        task.add_done_callback(lambda _: self._served.pop(transport))

    def complete(self) -> bool:
        there = [target.state is PeerState.ACTIVE for target in self.executor.registry.targets.values()]
        return there == [True] * self._count

    def idle(self) -> bool:
        return self.complete() and not any(
            member.target.desk.active or member.target.desk.unheard or member.target.engine.serving
            for member in self.members
        )

    def ask(self, *committed: TokenId) -> Answer:
        sampling = Sampling(temperature=0.8)
        generate = Generate(self._requests(), SEED, sampling, TOKENS, prompt_ids=PROMPT, committed=committed)
        name = self.members[0].model.info.name
        return self.executor.answers.open(Asked(name, generate, stream=True, include_usage=False, chat=False))

    @property
    def alone(self) -> list[TokenId]:
        return target_alone(self.members[0].model, PROMPT, TOKENS, Sampling(temperature=0.8))

    def owing(self) -> Member:
        return next(member for member in self.members if member.target.desk.active)


async def whole(answer: Answer) -> list[TokenId]:
    async with asyncio.timeout(600):
        ids = [token async for part in answer for token in part.ids]
    assert answer.finished is not None
    return ids


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_that_hangs_is_replaced_and_does_no_harm_when_it_wakes(seed: int) -> None:
    rng = random.Random(seed)

    @in_virtual_time
    async def run() -> None:
        async with Network() as network:
            answer = network.ask()
            await asyncio.sleep(rng.uniform(0.0, 7.0))  # an answer takes eight seconds
            hung = network.owing()
            hung.wire.partition()
            struck, had = network.clock.monotonic(), len(answer.ids)
            asleep = asyncio.create_task(asyncio.sleep(rng.choice((0.5, 3.0, 20.0))))
            asleep.add_done_callback(lambda _: hung.wire.heal())
            await until(lambda: len(answer.ids) > had)
            assert network.clock.monotonic() - struck < HUNG_SECONDS + 1.5
            assert await whole(answer) == network.alone
            answer.close()
            await asleep
            await until(network.idle)

    run()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_outlives_its_coordinator(seed: int) -> None:
    rng = random.Random(seed)

    @in_virtual_time
    async def run() -> None:
        async with Network() as network:
            answer = network.ask()
            await asyncio.sleep(rng.uniform(0.0, 7.0))
            ids = answer.ids[: rng.choice((len(answer.ids), len(answer.ids) // 2))]  # the rest was never sent on
            network.kill()
            await asyncio.sleep(rng.uniform(0.0, 15.0))
            back = network.clock.monotonic()
            network.start()
            await until(lambda: bool(network.executor.registry.targets))
            again = network.ask(*ids)
            await until(network.complete)
            assert network.clock.monotonic() - back <= REGISTERED_SECONDS
            assert ids + await whole(again) == network.alone
            again.close()
            await until(network.idle)

    run()


@in_virtual_time
async def test_a_slow_target_is_not_taken_for_a_hung_one() -> None:
    """A pass of a minute, with a queue behind it: the event loop lives, and says so."""
    async with Network(pass_seconds=60.0) as network:
        answers = [network.ask() for _ in range(4)]
        for answer in answers:
            await until(lambda answer=answer: len(answer.ids) > 1)  # type: ignore[misc]  # the loop's own
        assert [answer.resumes for answer in answers] == [0] * 4
        for answer in answers:
            answer.close()
        await until(network.idle)


@in_virtual_time
async def test_the_only_target_is_waited_for_until_its_link_is_given_up() -> None:
    async with Network(targets=1) as network:
        answer = network.ask()
        await asyncio.sleep(3.0)
        network.members[0].wire.partition()
        await asyncio.sleep(5.0)
        network.members[0].wire.heal()
        assert await whole(answer) == network.alone
        assert answer.resumes == 0
        answer.close()
        answer = network.ask()
        await asyncio.sleep(3.0)
        network.members[0].wire.partition()
        await until(lambda: not network.executor.registry.targets)
        with pytest.raises(TargetLost, match="after .* tokens of the answer"):
            await whole(answer)
        with pytest.raises(NoTarget):
            network.ask()
        answer.close()
        network.members[0].wire.heal()
        await until(network.idle)
