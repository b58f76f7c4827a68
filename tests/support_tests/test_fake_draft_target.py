from __future__ import annotations

import asyncio

import pytest

from tests.support.fake_draft_target import FakeDraftTarget
from tests.support.node_facts import NodeFacts
from wanspec_p2p.errors import RemoteProtocolError, Unreachable
from wanspec_p2p.protocol.node_to_target import Attach, Draft
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.tree import DraftTree
from wanspec_p2p.types import Role, SessionId


async def test_what_is_dialled_comes_out_at_the_other_end() -> None:
    facts = NodeFacts()
    target = FakeDraftTarget(facts.target, facts.node, facts.clock)
    lease = facts.lease()
    near = await target.dial(lease, "ws://127.0.0.1:1")
    await near.send(Attach(lease=lease.text))
    far, shown = await target.attached()
    assert (near.role, far.role) == (Role.TARGET, Role.NODE)
    assert shown == lease.text
    await near.send(Draft(session=3, base_len=1, base_hash=bytes(8), tokens=(7, 8)))
    assert await target.drafted(far, 3, 2) == [7, 8]
    await far.send(target.open(3, (1, 2)))
    async with asyncio.timeout(5):
        assert await near.receive() == target.open(3, (1, 2))
    assert target.dialled == [("lease-1", "ws://127.0.0.1:1")]
    await near.close()
    await target.close()


async def test_failures_come_first_and_once() -> None:
    facts = NodeFacts()
    target = FakeDraftTarget(facts.target, facts.node, facts.clock)
    target.failures.append(Unreachable("nobody"))
    with pytest.raises(Unreachable):
        await target.dial(facts.lease(), "ws://127.0.0.1:1")
    near = await target.dial(facts.lease(), "ws://127.0.0.1:1")
    assert len(target.dialled) == 2
    await near.close()
    await target.close()


async def test_it_is_itself_and_nobody_else() -> None:
    facts = NodeFacts()
    target = FakeDraftTarget(Identity.generate(), facts.node, facts.clock)
    with pytest.raises(RemoteProtocolError):
        async with asyncio.timeout(5):
            await target.dial(facts.lease(), "ws://127.0.0.1:1")


def test_prefixes_have_the_names_a_draft_tree_gives_them() -> None:
    verdict = FakeDraftTarget.verdict(1, (4, 5, 6), 2)
    assert (verdict.committed_len, verdict.tail) == (3, (5, 6))
    assert verdict.hash == DraftTree(SessionId("s"), (4, 5, 6)).hash
