from __future__ import annotations

import asyncio

import pytest

from coordinator import outbox as outbox_module
from coordinator.connections import MAX_CONNECTIONS
from coordinator.outbox import MAX_MESSAGES, Outbox
from wanspec_p2p.errors import CloseCode, LinkClosed, LocalProtocolError
from wanspec_p2p.protocol.common_messages import ControlMessage, Registered
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.types import Sampling


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[ControlMessage] = []
        self.closed: tuple[int, str, float] | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def send(self, message: ControlMessage) -> None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(message)

    async def close(self, code: int = 1000, reason: str = "", *, retry_after: float = 0.0) -> None:
        self.closed = (code, reason, retry_after)


def request(name: str) -> Generate:
    return Generate(request=name, seed=bytes(16), sampling=Sampling(), prompt="hello")


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


async def test_a_peer_for_whom_too_much_waits_is_let_go() -> None:
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


async def test_a_peer_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEND_SECONDS", 0.0)
    link = FakeLink()
    link.open.clear()
    outbox = Outbox(link)
    outbox.put(message("a"))
    await outbox.deliver()
    assert link.closed == (CloseCode.TRY_AGAIN_LATER, "a message was not taken in 0 s", 0.0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_all_answers_of_a_lost_target_fit_in_at_once(busy: bool) -> None:
    link = FakeLink()
    outbox = Outbox(link)
    delivery = asyncio.create_task(outbox.deliver())
    if busy:
        link.open.clear()
        outbox.put(message("before"))
    await asyncio.sleep(0)
    for number in range(MAX_CONNECTIONS):
        outbox.put(request(f"r{number}"))
    link.open.set()
    outbox.close(CloseCode.NORMAL, "done")
    async with asyncio.timeout(20):
        await delivery
    assert len(link.sent) == MAX_CONNECTIONS + busy
    assert link.closed == (CloseCode.NORMAL, "done", 0.0)


async def test_of_a_request_that_is_cancelled_before_its_turn_nothing_is_sent() -> None:
    link = FakeLink()
    link.open.clear()
    outbox = Outbox(link)
    outbox.put(request("a"))
    delivery = asyncio.create_task(outbox.deliver())
    await asyncio.sleep(0)  # a is on its way
    for _ in range(MAX_MESSAGES):
        outbox.put(request("b"))
        outbox.put(Cancel("b", "the submitter is gone"))
    outbox.put(Cancel("a", "the submitter is gone"))
    outbox.put(request("b"))
    outbox.close(CloseCode.NORMAL, "done")
    link.open.set()
    async with asyncio.timeout(5):
        await delivery
    assert link.sent == [request("a"), Cancel("a", "the submitter is gone"), request("b")]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(LinkClosed("broken"), CloseCode.GOING_AWAY), (LocalProtocolError("too long"), CloseCode.INTERNAL_ERROR)],
    ids=["link", "message"],
)
async def test_a_failure_to_send_ends_the_link(failure: Exception, code: CloseCode) -> None:
    link = FakeLink()
    link.failure = failure
    outbox = Outbox(link)
    outbox.put(message("a"))
    async with asyncio.timeout(5):
        await outbox.deliver()
    assert link.closed is not None
    assert link.closed[0] == code
