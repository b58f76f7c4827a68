from __future__ import annotations

import asyncio

import pytest

from tests.support.dialled_links import DialledLinks
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.node_to_target import Detach, NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import PeerId, Role

TARGET, NODE = Identity.generate(), Identity.generate()


def target() -> DialledLinks[NodeToTarget]:
    return DialledLinks(AT_TARGET_FROM_NODE, identity=TARGET, role=Role.TARGET, clock=LoopClock(), seconds=2.0)


async def dial(links: DialledLinks[NodeToTarget], expect: PeerId | None = None) -> PeerLink[TargetToNode]:
    return await links.connected(AT_NODE_FROM_TARGET, identity=NODE, role=Role.NODE, expect=expect)


@in_virtual_time
async def test_far_ends_come_out_in_the_order_they_were_dialled() -> None:
    links = target()
    nears = [await dial(links), await dial(links)]
    assert [near.peer for near in nears] == [TARGET.peer_id] * 2
    for number, near in enumerate(nears):
        await near.send(Detach(reason=str(number)))
    fars = [await links.next_link(), await links.next_link()]
    assert [(far.peer, far.role) for far in fars] == [(NODE.peer_id, Role.NODE)] * 2
    assert [await far.receive() for far in fars] == [Detach(reason="0"), Detach(reason="1")]
    await links.close()
    for near in nears:
        with pytest.raises((LinkClosed, PeerRefused)):
            await near.receive()
        await near.close()


@in_virtual_time
async def test_it_fails_first_as_often_as_it_was_told() -> None:
    links = target()
    links.failures += [Unreachable("nobody"), LinkClosed("gone")]
    with pytest.raises(Unreachable):
        await dial(links)
    with pytest.raises(LinkClosed):
        await dial(links)
    near = await dial(links)
    assert (await links.next_link()).peer == NODE.peer_id
    await near.close()
    await links.close()


@in_virtual_time
async def test_it_is_itself_and_nobody_else() -> None:
    with pytest.raises(RemoteProtocolError):
        await dial(target(), expect=Identity.generate().peer_id)


@in_virtual_time
async def test_where_nobody_dials_the_wait_ends() -> None:
    before = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await target().next_link()
    assert asyncio.get_running_loop().time() == before + 2.0
