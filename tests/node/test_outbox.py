from __future__ import annotations

import asyncio

import pytest

from node.outbox import MAX_WAITING, Outbox
from wanspec_p2p.errors import CloseCode, LinkClosed, LocalProtocolError, WanspecError
from wanspec_p2p.types import PeerId, Role


class RecordingLink:
    """A link whose far end reads while `reading` is set."""

    peer = PeerId("p" * 32)
    role = Role.TARGET
    rtt = None

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.closed: list[tuple[int, str]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.failure: WanspecError | None = None

    async def send(self, message: str) -> None:
        await self.reading.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(message)

    async def receive(self) -> str:
        raise NotImplementedError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed.append((code, reason))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def link() -> RecordingLink:
    return RecordingLink()


async def test_what_is_put_is_sent_in_order(link: RecordingLink) -> None:
    outbox: Outbox[str] = Outbox(link)
    for word in ("a", "b", "c"):
        outbox.put(word)
    await settle()
    assert link.sent == ["a", "b", "c"]
    await outbox.close()
    assert link.closed == [(CloseCode.GOING_AWAY, "")]


async def test_finish_sends_the_rest_first(link: RecordingLink) -> None:
    link.reading.clear()
    outbox: Outbox[str] = Outbox(link)
    outbox.put("a")
    outbox.put("b")
    outbox.finish("bye")
    await settle()
    assert link.closed == []
    link.reading.set()
    await settle()
    assert link.sent == ["a", "b"]
    assert link.closed == [(CloseCode.GOING_AWAY, "bye")]
    await outbox.close()


async def test_close_drops_the_rest(link: RecordingLink) -> None:
    link.reading.clear()
    outbox: Outbox[str] = Outbox(link)
    outbox.put("a")
    await settle()
    await outbox.close()
    assert link.sent == []


async def test_a_peer_that_does_not_read_is_hung_up_on_once(link: RecordingLink) -> None:
    link.reading.clear()
    outbox: Outbox[str] = Outbox(link)
    for number in range(MAX_WAITING + 5):
        outbox.put(str(number))
    await settle()
    assert link.closed == [(CloseCode.POLICY_VIOLATION, "the peer does not read what it is sent")]
    await outbox.close()


async def test_a_lost_link_is_for_the_receiver_to_report(link: RecordingLink) -> None:
    link.failure = LinkClosed("gone")
    outbox: Outbox[str] = Outbox(link)
    outbox.put("a")
    await settle()
    assert link.closed == []
    await outbox.close()


async def test_a_message_that_must_not_be_sent_ends_the_link(link: RecordingLink) -> None:
    link.failure = LocalProtocolError("contradicts itself")
    outbox: Outbox[str] = Outbox(link)
    outbox.put("a")
    await settle()
    assert link.closed == [(CloseCode.INTERNAL_ERROR, "a bug at the sender")]
    await outbox.close()
