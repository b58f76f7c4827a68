from __future__ import annotations

import random
from functools import partial

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.node_to_target import Attach, Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.simulation.drafting_node import NodeSpec, Says
from wanspec_p2p.simulation.echo import Echo
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.site import Answer, Site, question, run_answer
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import PeerId, Role

TEXT = Text(3)
TOKENS = 48
ATTACH = Attach(lease="a lease")
DRAFTS = [Draft(1, length, bytes(8), (7,)) for length in range(40)]


class Heard:
    """A link that keeps what is sent on it."""

    def __init__(self) -> None:
        self.messages: list[NodeToTarget] = []
        self.closed: tuple[int, str] | None = None
        self.peer, self.role, self.rtt, self.jitter = PeerId("a target"), Role.TARGET, 0.5, 0.25

    async def send(self, message: NodeToTarget) -> None:
        self.messages.append(message)

    async def receive(self) -> TargetToNode:
        raise NotImplementedError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = code, reason


async def heard(says: Says, messages: list[NodeToTarget]) -> list[NodeToTarget]:
    link = Heard()
    spoken = says(link, random.Random(0))
    for message in messages:
        await spoken.send(message)
    return link.messages


async def test_drafts_are_said_twice_and_nothing_else_is() -> None:
    said = await heard(partial(Echo, late=0.0), [ATTACH, *DRAFTS])
    assert said == [ATTACH, *(draft for draft in DRAFTS for _ in range(2))]


async def test_old_drafts_come_again_among_later_ones() -> None:
    said = await heard(partial(Echo, twice=False, late=1.0), [ATTACH, *DRAFTS])
    assert said[0] == ATTACH and said[1::2] == DRAFTS
    again = [draft.base_len for draft in said[2::2] if isinstance(draft, Draft)]
    assert all(old <= now for now, old in enumerate(again))
    assert max(now - old for now, old in enumerate(again)) > 10


async def test_it_is_the_link_in_all_else() -> None:
    link = Heard()
    echo: Link[NodeToTarget, TargetToNode] = Echo(link, random.Random(0))
    assert (echo.peer, echo.role, echo.rtt, echo.jitter) == (link.peer, link.role, link.rtt, link.jitter)
    await echo.close(1001, "going")
    assert link.closed == (1001, "going")


async def played(says: Says | None) -> tuple[Answer, Site]:
    wan = Wan(rtt=0.01)
    drafter = SimulatedDrafter(IidLaw(TEXT), DeviceTime(Steps(0.005, 8)))
    node = NodeSpec(drafter, wan.path(), wan.path(), says=says)
    async with Site(SimulatedTarget(TEXT, DeviceTime(flat(0.030, 64))), [node], drafters=1) as site:
        return await run_answer(site, question("echoed", (1, 2), TOKENS)), site


@pytest.mark.parametrize("says", [partial(Echo, late=0.0), partial(Echo, twice=False)], ids=["doubling", "repeating"])
@in_virtual_time
async def test_what_a_node_repeats_is_drafted_to_the_target_and_changes_nothing(says: Says) -> None:
    plain, _ = await played(None)
    answer, site = await played(says)
    assert list(answer.tokens) == TEXT.continuation((1, 2), TOKENS)
    assert (answer.seconds, answer.stats.accepted) == (plain.seconds, plain.stats.accepted)
    (node,) = site.nodes
    assert answer.stats.drafters[node.peer].drafted > 1.2 * plain.stats.drafters[node.peer].drafted
