from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.fake_target import FakePeer, FakeTarget, answer_ids, node_registration, target_registration, until
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, PeerRefused
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.links.peer import PeerLink, accept
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE, AT_COORDINATOR_FROM_TARGET
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Finished, Tokens
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role, Sampling


async def joined(kind: type[FakePeer], registration: Any, role: Role, codec: Any) -> tuple[Any, PeerLink[Any]]:
    """A peer and the coordinator's end of its link, after registration."""
    identity, (ours, theirs) = Identity.generate(), memory_transports()
    joining = asyncio.create_task(kind.join(ours, identity.peer_id, registration))
    link = await accept(
        theirs,
        codec,
        identity=identity,
        role=Role.COORDINATOR,
        roles=frozenset({role}),
        clock=ManualClock(),
    )
    assert await link.receive() == registration
    await link.send(Registered("p", 2.0))
    return await joining, link


async def test_a_fake_target_answers_as_scripted() -> None:
    async with asyncio.timeout(10):
        target, link = await joined(FakeTarget, target_registration(), Role.TARGET, AT_COORDINATOR_FROM_TARGET)
        target.script.pause_after = 2
        request = Generate("r", bytes(16), Sampling(), prompt="x", max_tokens=3, top_logprobs=1)
        await link.send(request)
        first = await link.receive()
        assert isinstance(first, Tokens)
        assert (first.position, list(first.ids)) == (0, answer_ids(request, 2))
        assert len(first.logprobs) == 2
        await target.said(2)
        target.script.go_on.set()
        assert (await link.receive()).position == 2
        finished = await link.receive()
        assert isinstance(finished, Finished)
        assert finished.usage.completion_tokens == 3
        await link.send(Cancel("r"))
        await target.cancelled.wait()
        assert (target.generates, target.cancels) == ([request], [Cancel("r")])
        await target.close()
        await link.close()


async def test_a_fake_peer_waits_for_a_kind_and_learns_how_it_ended() -> None:
    async with asyncio.timeout(10):
        node, link = await joined(FakePeer, node_registration(), Role.NODE, AT_COORDINATOR_FROM_NODE)
        await link.send(Registered("q", 1.0))
        await until(lambda: node.pending(Registered))
        assert (await node.expect(Registered, where=lambda message: message.pool == "q")).heartbeat == 1.0
        await link.close(CloseCode.REPLACED, "enough")
        assert (await node.refusal()).code == CloseCode.REPLACED
        with pytest.raises(PeerRefused, match="enough"):
            await node.expect(Registered)
        await node.close()
