from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from node.draft_link import DraftLink
from node.drafting import DraftingEngine
from node.limits import LendingLimits
from tests.support.fake_draft_target import FakeDraftTarget
from tests.support.node_facts import NodeFacts
from tests.support.scripted_models import ScriptedModel
from tests.support.session_rows import SureTable
from tests.support.waits import Waits
from wanspec_p2p.errors import CloseCode, ConfigError, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.protocol.limits import SILENCE_SECONDS
from wanspec_p2p.protocol.node_to_target import Attach, Decline, Detach
from wanspec_p2p.protocol.target_to_node import Close


class Bench:
    """A draft link on a running engine, and the target at its far end."""

    def __init__(self, **claims: object) -> None:
        self.facts = NodeFacts()
        self.lease = self.facts.lease(**claims)
        self.target = FakeDraftTarget(self.facts.target, self.facts.node, self.facts.clock)
        self.model = ScriptedModel(1)
        self.engine = DraftingEngine(self.model, clock=self.facts.clock)
        self.waits = Waits()
        self.link = DraftLink(
            self.lease,
            self.engine,
            LendingLimits(slots=2, max_prefix=64),
            dial=self.target.dial,
            backoff=Backoff(random.Random(1)),
            clock=self.facts.clock,
            sleep=self.waits,
        )
        self.link.table = SureTable()

    def start(self) -> asyncio.Task[str]:
        self._drafting = asyncio.create_task(self.engine.run())
        self.running = asyncio.create_task(self.link.run())
        return self.running

    async def result(self) -> str:
        async with asyncio.timeout(5):
            return await self.running

    async def close(self) -> None:
        self.running.cancel()
        self._drafting.cancel()
        await asyncio.gather(self.running, self._drafting, return_exceptions=True)
        await self.target.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.start()
    yield bench
    await bench.close()


async def test_it_attaches_with_its_lease_and_drafts(bench: Bench) -> None:
    link, lease = await bench.target.attached()
    assert lease == bench.lease.text
    await link.send(bench.target.open(1, (1, 2)))
    tokens = await bench.target.drafted(link, 1, 8)
    assert tokens[0] == int(bench.model.row((1, 2)).argmax())


async def test_a_whole_answer_with_right_and_wrong_drafts(bench: Bench) -> None:
    """The target disagrees at every fifth position; every draft after a verdict follows what was committed."""
    link, _ = await bench.target.attached()
    committed = [1, 2]
    await link.send(bench.target.open(1, committed, window=4))
    for round_number in range(6):
        tokens = await bench.target.drafted(link, 1, 4)
        expected = list(committed)
        for token in tokens:
            assert token == int(bench.model.row(expected).argmax())
            expected.append(token)
        if round_number % 2:
            committed = expected
            await link.send(bench.target.verdict(1, committed, 0, window=4))
        else:
            wrong = (int(bench.model.row(committed).argmax()) + 1) % 256
            committed = [*committed, wrong]
            await link.send(bench.target.verdict(1, committed, 1, window=4))
    await link.send(Close(session=1))


async def test_a_declined_session_leaves_the_link_alone(bench: Bench) -> None:
    link, _ = await bench.target.attached()
    await link.send(bench.target.open(1, range(65)))
    async with asyncio.timeout(5):
        assert await link.receive() == Decline(session=1, reason="the prefix has 65 tokens, at most 64 are taken")
    await link.send(bench.target.open(2, (1, 2)))
    assert len(await bench.target.drafted(link, 2, 8)) == 8


async def test_a_renewed_lease_is_shown(bench: Bench) -> None:
    link, _ = await bench.target.attached()
    bench.facts.clock.advance(100)
    renewed = bench.facts.lease()
    bench.link.renew(renewed)
    async with asyncio.timeout(5):
        assert await link.receive() == Attach(lease=renewed.text)


async def test_a_lost_link_ends_its_sessions_and_is_dialled_again_after_a_jittered_wait(bench: Bench) -> None:
    link, _ = await bench.target.attached()
    await link.send(bench.target.open(1, (1, 2)))
    await bench.target.drafted(link, 1, 8)
    await link.close()
    await bench.waits.begun()
    assert bench.engine.sessions == 0
    assert bench.waits.asked == [Backoff(random.Random(1)).next()]
    renewed = bench.facts.lease("lease-2")
    bench.link.renew(renewed)
    await bench.waits.end()
    link, lease = await bench.target.attached()
    assert lease == renewed.text
    await link.send(bench.target.open(1, (3,)))  # numbers start anew with the link
    assert len(await bench.target.drafted(link, 1, 8)) == 8


async def test_waits_grow_until_a_link_has_held(bench: Bench) -> None:
    reference = Backoff(random.Random(1))
    expected = []
    for _ in range(3):
        link, _ = await bench.target.attached()
        await link.close()
        await bench.waits.begun()
        expected.append(reference.next())
        await bench.waits.end()
    assert bench.waits.asked == expected
    link, _ = await bench.target.attached()
    bench.facts.clock.advance(SILENCE_SECONDS)
    await link.close()
    await bench.waits.begun()
    reference.reset()
    assert bench.waits.asked[-1] == reference.next()


async def test_addresses_are_tried_in_turn() -> None:
    addresses = ("ws://127.0.0.1:1/wanspec/draft", "ws://127.0.0.1:2/wanspec/draft")
    bench = Bench(addresses=addresses)
    bench.target.failures += [Unreachable("nobody"), ConfigError("proxy"), RemoteProtocolError("somebody else")]
    bench.start()
    for _ in range(3):
        await bench.waits.end()
    await bench.target.attached()
    assert [address for _, address in bench.target.dialled] == [*addresses] * 2
    await bench.close()


@pytest.mark.parametrize(
    "code", [CloseCode.LEASE_REFUSED, CloseCode.TOKENIZER_MISMATCH, CloseCode.VERSION_MISMATCH, CloseCode.IDLE]
)
async def test_a_target_that_will_not_have_us_ends_it(bench: Bench, code: CloseCode) -> None:
    link, _ = await bench.target.attached()
    await link.close(code, "not you")
    assert await bench.result() == "not you"
    assert bench.waits.asked == []


async def test_a_refusal_while_dialling_counts_too() -> None:
    bench = Bench()
    bench.target.failures += [PeerRefused(CloseCode.INTERNAL_ERROR, "oops"), PeerRefused(CloseCode.LEASE_REFUSED, "no")]
    bench.start()
    await bench.waits.end()
    assert await bench.result() == "no"
    await bench.close()


async def test_a_target_that_breaks_the_rules_is_told_which_and_dialled_again(bench: Bench) -> None:
    link, _ = await bench.target.attached()
    await link.send(Close(session=9))
    with pytest.raises(PeerRefused, match="session 9 is not open") as refusal:
        async with asyncio.timeout(5):
            await link.receive()
    assert refusal.value.code == CloseCode.PROTOCOL_ERROR
    await bench.waits.end()
    await bench.target.attached()


async def test_leaving_says_so_and_closes(bench: Bench) -> None:
    link, _ = await bench.target.attached()
    await link.send(bench.target.open(1, (1, 2)))
    await bench.target.drafted(link, 1, 8)
    assert bench.link.leave("bye")
    async with asyncio.timeout(5):
        assert await link.receive() == Detach(reason="bye")
        with pytest.raises(LinkClosed, match="bye"):
            await link.receive()
    assert await bench.result() == "bye"
    assert bench.engine.sessions == 0


async def test_leaving_without_a_link_leaves_it_to_the_caller() -> None:
    bench = Bench()
    bench.target.failures.append(Unreachable("nobody"))
    bench.start()
    await bench.waits.begun()
    assert not bench.link.leave("bye")
    await bench.close()
