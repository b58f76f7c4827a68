from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from coordinator.streams import EventStream, while_connected
from wanspec_p2p.errors import TargetLost


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def gone() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def test_work_is_done_while_the_submitter_waits() -> None:
    async def work() -> int:
        return 7

    assert await while_connected(never, work()) == 7


async def test_work_stops_when_the_submitter_hangs_up() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with asyncio.timeout(5):
        with pytest.raises(ClientDisconnect):
            await while_connected(gone, work())
    assert stopped.is_set()


class Outcome:
    def __init__(self) -> None:
        self.problems: list[BaseException | None] = []
        self.sent: list[Any] = []

    def ended(self, problem: BaseException | None) -> None:
        self.problems.append(problem)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_an_error_is_the_last_event_and_is_reported_once() -> None:
    outcome = Outcome()

    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: error\n\n"
        raise TargetLost("gone")

    await EventStream(events(), outcome.ended, {"x-request-id": "r"})({}, never, outcome.send)
    assert [message.get("body") for message in outcome.sent] == [None, b"data: 1\n\n", b"data: error\n\n", b""]
    assert (b"x-request-id", b"r") in outcome.sent[0]["headers"]
    assert [type(problem) for problem in outcome.problems] == [TargetLost]


async def test_hanging_up_closes_the_events() -> None:
    outcome, closed = Outcome(), asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with asyncio.timeout(5):
        await EventStream(events(), outcome.ended, {})({}, gone, outcome.send)
    assert [type(problem) for problem in outcome.problems] == [ClientDisconnect]
    assert closed.is_set() or outcome.sent == []
