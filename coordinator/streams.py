"""Answers on the wire: one JSON body, or server-sent events, and a submitter who may hang up at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from coordinator.answer import Answer
from coordinator.openai_responses import Reply, error_body
from wanspec_p2p.errors import RequestError
from wanspec_p2p.protocol.target_to_coordinator import Tokens

__all__ = ["EventStream", "collect", "events", "while_connected"]

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, or stop it as soon as the submitter hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect(answer: Answer) -> list[Tokens]:
    """The whole answer. Raises what it fails with."""
    return [tokens async for tokens in answer]


async def events(answer: Answer, reply: Reply, first: Tokens | None) -> AsyncGenerator[bytes]:
    """The answer as events, after `first`. One that fails ends with an error and without `[DONE]`."""
    try:
        for body in reply.opening():
            yield _event(body)
        if first is not None:
            yield _event(reply.chunk(first))
        async for tokens in answer:
            yield _event(reply.chunk(tokens))
        assert answer.finished is not None  # its iterator has ended
        for body in reply.closing(answer.finished, len(answer.ids)):
            yield _event(body)
        yield b"data: [DONE]\n\n"
    except RequestError as error:
        yield _event(error_body(error))
        raise


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


class EventStream(Response):
    """Sends events as they come.

    Args:
        ended: called once, with what went wrong if anything did, before the response is over.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        ended: Callable[[BaseException | None], None],
        headers: dict[str, str],
    ) -> None:
        super().__init__(headers=headers | {"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._ended = events, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem: BaseException | None = None
        try:
            await while_connected(receive, self._send_all(send))
        except RequestError as error:
            problem = error  # it has been sent as an event
        except (ClientDisconnect, OSError):
            problem = ClientDisconnect()
        except BaseException as error:
            problem = error
            raise
        finally:
            await self._events.aclose()
            self._ended(problem)

    async def _send_all(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        failure: RequestError | None = None
        with contextlib.suppress(StopAsyncIteration):
            while True:
                try:
                    data = await anext(self._events)
                except RequestError as error:
                    failure = error
                    break
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if failure is not None:
            raise failure
