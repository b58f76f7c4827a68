from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from node import service
from node.limits import LendingLimits
from node.service import NodeService
from tests.support.fake_draft_target import FakeDraftTarget
from tests.support.fake_node_coordinator import FakeNodeCoordinator, expect
from tests.support.node_facts import NodeFacts, drafter_model
from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.common_messages import LeaseRevoked
from wanspec_p2p.protocol.coordinator_to_node import LeaseOffer
from wanspec_p2p.protocol.node_to_coordinator import Drain, LeaseAnswer, NodeMessage
from wanspec_p2p.protocol.node_to_target import Detach, NodeToTarget
from wanspec_p2p.types import Segment


class Bench:
    """A whole node, its coordinator and a target, in memory."""

    def __init__(self) -> None:
        self.model = ScriptedModel(1)
        self.facts = NodeFacts(model=drafter_model(self.model.info))
        facts = self.facts
        self.coordinator = FakeNodeCoordinator(facts.coordinator, facts.node, facts.clock)
        self.target = FakeDraftTarget(facts.target, facts.node, facts.clock)
        self.joined: list[str] = []
        self.stop = asyncio.Event()
        self.service = NodeService(
            facts.node.peer_id,
            facts.coordinator.public_key,
            facts.registration(),
            self.model,
            LendingLimits(slots=2, max_prefix=64),
            secret="s3cret",
            enrolled=False,
            dial_coordinator=self.coordinator.dial,
            dial_target=self.target.dial,
            time_target=self.target.time,
            loopback=lambda: True,
            joined=self.joined.append,
            clock=facts.clock,
            rng=random.Random(1),
        )
        self.serving = asyncio.create_task(self.service.serve(self.stop))

    async def drafting(self) -> tuple[PeerLink[NodeMessage], PeerLink[NodeToTarget]]:
        """Joined, leased, and in the middle of a session."""
        control = await self.coordinator.admitted()
        await control.send(LeaseOffer(jti="lease-1", lease=self.facts.lease().text))
        assert (await expect(control, LeaseAnswer)).accepted
        draft, _ = await self.target.attached()
        await draft.send(self.target.open(1, (1, 2)))
        await self.target.drafted(draft, 1, 8)
        return control, draft

    async def served(self) -> None:
        async with asyncio.timeout(5):
            await self.serving

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        await self.coordinator.close()
        await self.target.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


async def test_stopping_drains_both_links_and_ends(bench: Bench) -> None:
    control, draft = await bench.drafting()
    bench.stop.set()
    assert (await expect(control, Drain)).reason == service.LEAVING
    async with asyncio.timeout(5):
        assert await draft.receive() == Detach(reason=service.LEAVING)
        with pytest.raises(LinkClosed):
            await draft.receive()
    await bench.served()
    assert bench.joined == ["default"]
    assert bench.service.engine.sessions == 0


async def test_the_target_goes_on_while_the_coordinator_is_away(bench: Bench) -> None:
    control, draft = await bench.drafting()
    await control.close()
    await draft.send(bench.target.open(2, (3, 4)))
    assert len(await bench.target.drafted(draft, 2, 8)) == 8


async def test_a_revoked_lease_ends_the_draft_link(bench: Bench) -> None:
    control, draft = await bench.drafting()
    await control.send(LeaseRevoked(jti="lease-1", reason="another is better"))
    async with asyncio.timeout(5):
        assert await draft.receive() == Detach(reason="another is better")
    assert not bench.serving.done()


async def test_a_lease_the_target_refuses_goes_back_to_the_coordinator(bench: Bench) -> None:
    control, draft = await bench.drafting()
    await draft.close(CloseCode.LEASE_REFUSED, "expired here")
    answer = await expect(control, LeaseAnswer)
    assert answer == LeaseAnswer(jti="lease-1", accepted=False, reason="expired here")


async def test_being_removed_ends_the_node_and_its_draft_links(bench: Bench) -> None:
    control, draft = await bench.drafting()
    await control.close(CloseCode.NOT_ENROLLED, "removed by the operator")
    async with asyncio.timeout(5):
        assert isinstance(await draft.receive(), Detach)
    with pytest.raises(PeerRefused, match="removed by the operator"):
        await bench.served()


async def test_a_pass_that_does_not_end_does_not_keep_the_node(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, draft = await bench.drafting()
    hanging = asyncio.Event()

    async def hang(batch: Sequence[Segment]) -> None:
        hanging.set()
        await asyncio.Event().wait()

    bench.model.before_forward = hang
    monkeypatch.setattr(service, "DRAIN_SECONDS", 0.05)
    await draft.send(bench.target.open(2, (5,)))
    await hanging.wait()
    bench.stop.set()
    await bench.served()


async def test_a_bug_in_the_engine_is_not_hidden(bench: Bench) -> None:
    _, draft = await bench.drafting()

    async def fail(batch: Sequence[Segment]) -> None:
        raise ZeroDivisionError

    bench.model.before_forward = fail
    await draft.send(bench.target.open(2, (5,)))
    with pytest.raises(ZeroDivisionError):
        await bench.served()
