from __future__ import annotations

import asyncio

from coordinator.outbox import MAX_MESSAGES, Outbox
from wanspec_p2p.errors import CloseCode, LinkClosed
from wanspec_p2p.protocol.common_messages import ControlMessage, Registered


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[ControlMessage] = []
        self.closed: tuple[int, str, float] | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def send(self, message: ControlMessage) -> None:
        await self.open.wait()
        if self.broken:
            raise LinkClosed("broken")
        self.sent.append(message)

    async def close(self, code: int = 1000, reason: str = "", *, retry_after: float = 0.0) -> None:
        self.closed = (code, reason, retry_after)


def message(pool: str) -> Registered:
    return Registered(pool, 2.0)


async def test_everything_put_before_the_close_is_sent_in_order() -> None:
    link = FakeLink()
    outbox = Outbox(link)
    outbox.put(message("a"))
    delivery = asyncio.create_task(outbox.deliver())
    await asyncio.sleep(0)
    outbox.put(message("b"))
    outbox.close(CloseCode.REPLACED, "why", retry_after=2.0)
    outbox.close(CloseCode.NORMAL, "a later reason")
    outbox.put(message("too late"))
    async with asyncio.timeout(5):
        await delivery
    assert link.sent == [message("a"), message("b")]
    assert link.closed == (CloseCode.REPLACED, "why", 2.0)


async def test_a_peer_that_does_not_read_is_let_go() -> None:
    link = FakeLink()
    link.open.clear()
    outbox = Outbox(link)
    delivery = asyncio.create_task(outbox.deliver())
    for number in range(MAX_MESSAGES + 2):
        outbox.put(message(str(number)))
    await asyncio.sleep(0)
    link.open.set()
    async with asyncio.timeout(5):
        await delivery
    assert link.closed is not None
    assert link.closed[0] == CloseCode.TRY_AGAIN_LATER
    assert len(link.sent) <= 1


async def test_a_broken_link_ends_delivery() -> None:
    link = FakeLink()
    link.broken = True
    outbox = Outbox(link)
    outbox.put(message("a"))
    async with asyncio.timeout(5):
        await outbox.deliver()
    assert link.closed is not None
