from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from node.draft_links import DraftLinks
from node.lease_checks import Held
from tests.support.node_facts import NodeFacts
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.security.identity import Identity


class FakeLink:
    """Runs until a test, or `leave`, gives it a result."""

    def __init__(self, lease: Held, *, linked: bool) -> None:
        self.lease, self._linked = lease, linked
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.left: str | None = None

    async def run(self) -> str:
        return await self.outcome

    def renew(self, lease: Held) -> None:
        self.lease = lease

    def leave(self, reason: str) -> bool:
        self.left = reason
        return self._linked


class Desk:
    def __init__(self) -> None:
        self.facts = NodeFacts()
        self.made: list[FakeLink] = []
        self.lost: list[tuple[str, str]] = []
        self.linked = True
        self.links = DraftLinks(self._make, lambda jti, reason: self.lost.append((jti, reason)))  # type: ignore[arg-type]  # a FakeLink

    def _make(self, lease: Held) -> FakeLink:
        self.made.append(FakeLink(lease, linked=self.linked))
        return self.made[-1]

    async def finished(self) -> None:
        async with asyncio.timeout(5):
            await self.links.finished()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.links.abort()


async def test_each_target_has_one_link_however_many_leases(desk: Desk) -> None:
    other = Identity.generate()
    desk.links.take(desk.facts.lease("a"))
    desk.links.take(desk.facts.lease("b"))
    desk.links.take(desk.facts.lease("c", target=other))
    assert [link.lease.claims.jti for link in desk.made] == ["b", "c"]


async def test_a_dropped_link_says_goodbye_and_is_waited_for(desk: Desk) -> None:
    lease = desk.facts.lease()
    desk.links.take(lease)
    desk.links.drop(lease, "bye")
    (link,) = desk.made
    assert link.left == "bye"
    waiting = asyncio.create_task(desk.finished())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.outcome.set_result("bye")
    await waiting
    assert desk.lost == []  # we left; it did not refuse us


async def test_a_link_that_is_not_up_is_just_ended(desk: Desk) -> None:
    desk.linked = False
    lease = desk.facts.lease()
    desk.links.take(lease)
    await asyncio.sleep(0)
    desk.links.drop(lease, "bye")
    await desk.finished()
    assert desk.lost == []


async def test_dropping_what_is_not_held_does_nothing(desk: Desk) -> None:
    desk.links.drop(desk.facts.lease(), "bye")
    await desk.finished()
    assert desk.made == []


async def test_a_target_that_will_not_have_us_is_reported_under_its_present_lease(desk: Desk) -> None:
    desk.links.take(desk.facts.lease("a"))
    desk.links.take(desk.facts.lease("b"))
    desk.made[0].outcome.set_result("not you")
    await desk.finished()
    assert desk.lost == [("b", "not you")]
    desk.links.take(desk.facts.lease("c"))
    assert len(desk.made) == 2


async def test_a_bug_in_one_link_ends_that_link_alone(desk: Desk) -> None:
    other = Identity.generate()
    desk.links.take(desk.facts.lease("a"))
    desk.links.take(desk.facts.lease("b", target=other))
    desk.made[0].outcome.set_exception(LocalProtocolError("impossible"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.lost == [("a", "the node failed")]
    assert not desk.made[1].outcome.done()


async def test_a_new_lease_while_the_old_link_says_goodbye_gets_a_link_of_its_own(desk: Desk) -> None:
    old = desk.facts.lease("a")
    desk.links.take(old)
    desk.links.drop(old, "revoked")
    desk.links.take(desk.facts.lease("b"))
    desk.made[0].outcome.set_result("revoked")
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.lost == []
    desk.made[1].outcome.set_result("not you")
    await desk.finished()
    assert desk.lost == [("b", "not you")]


async def test_abort_waits_for_nobody(desk: Desk) -> None:
    desk.links.take(desk.facts.lease())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await desk.links.abort()
    assert desk.made[0].outcome.cancelled()
