from __future__ import annotations

import asyncio

import pytest

from tests.support.fake_node_coordinator import FakeNodeCoordinator, expect
from tests.support.node_facts import NodeFacts
from wanspec_p2p.errors import Unreachable
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat
from wanspec_p2p.types import Role


async def test_a_node_that_registers_is_taken_in() -> None:
    facts = NodeFacts()
    coordinator = FakeNodeCoordinator(facts.coordinator, facts.node, facts.clock)
    near = await coordinator.dial()
    assert near.role is Role.COORDINATOR
    await near.send(facts.registration())
    far = await coordinator.admitted(heartbeat=3.0)
    async with asyncio.timeout(5):
        assert await near.receive() == Registered(pool="default", heartbeat=3.0)
    await near.send(Heartbeat(sessions=1))
    assert await expect(far, Heartbeat) == Heartbeat(sessions=1)
    await near.close()
    await coordinator.close()


async def test_it_fails_first_as_often_as_it_was_told() -> None:
    facts = NodeFacts()
    coordinator = FakeNodeCoordinator(facts.coordinator, facts.node, facts.clock)
    coordinator.failures.append(Unreachable("nobody"))
    with pytest.raises(Unreachable):
        await coordinator.dial()
    near = await coordinator.dial()
    assert coordinator.dialled == 2
    await near.close()
    await coordinator.close()


async def test_another_message_than_expected_fails_the_test() -> None:
    facts = NodeFacts()
    coordinator = FakeNodeCoordinator(facts.coordinator, facts.node, facts.clock)
    near = await coordinator.dial()
    await near.send(Heartbeat(sessions=1))
    with pytest.raises(AssertionError):
        await coordinator.registered()
    await near.close()
    await coordinator.close()
