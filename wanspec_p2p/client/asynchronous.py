"""The client for asyncio; `blocking.py` is the same without an event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx2

from wanspec_p2p.client.answers import Answer, Model, Piece
from wanspec_p2p.client.connection import DEFAULT_TIMEOUT, Endpoint, only_model, opened, translated
from wanspec_p2p.client.exchange import (
    AnswerBuilder,
    Messages,
    Options,
    check_stream,
    date_of,
    error_from_response,
    models_from_response,
    request_body,
    state_from_response,
)
from wanspec_p2p.client.resuming import RESUME_SECONDS, Resumption
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import WanspecError

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Unpack

__all__ = ["AsyncAnswerStream", "AsyncClient"]


class AsyncClient:
    """A coordinator, seen by a submitter. Keeps its connections; close it, or use it in `async with`.

    Args:
        url: the coordinator's address; plain http to this machine only.
        api_key: as `wanspec coordinator key` printed it.
        fingerprint: SHA-256 of the coordinator's certificate, where it made its own (the join token carries it too).
        timeout: seconds of silence after which a request has failed.
        resume_seconds: how long an answer that broke off is asked for again, so that a coordinator may come back; the
            stream goes on where it was. 0: a broken answer is an error at once.

    Raises:
        ConfigError: an address or a fingerprint that cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        fingerprint: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        resume_seconds: float = RESUME_SECONDS,
        clock: Clock | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        endpoint = Endpoint(url.rstrip("/"), api_key, fingerprint)
        self.url = endpoint.url
        self._resume_seconds, self._clock = resume_seconds, clock or SystemClock()
        self._http = opened(httpx2.AsyncClient, endpoint, timeout, transport)

    async def generate(
        self, prompt: str | Messages, *, model: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> Answer:
        """The whole answer to a prompt or a conversation.

        Args:
            prompt: a message, or a conversation of them.
            model: by name; None takes the only one that is served (which costs a look at the list).
            raw: continue the text as it stands, without the chat template.
            options: see `Options`.

        Raises:
            RequestError: the coordinator or the target cannot answer; its subclasses say why.
            Unreachable, LinkClosed, RemoteProtocolError: there is no coordinator, or no longer, or it is not one.
        """
        async with self.stream(prompt, model=model, raw=raw, **options) as stream:
            async for _ in stream:
                pass
            return stream.answer

    def stream(
        self, prompt: str | Messages, *, model: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> AsyncAnswerStream:
        """The answer as it is committed: iterate for pieces, then read `.answer`. Arguments and errors of `generate`.

        Leaving the stream early cancels the request at the target.
        """
        chosen = model

        async def opened(resumption: Resumption) -> httpx2.Response:
            nonlocal chosen
            chosen = chosen or only_model(await self.models())
            path, body = request_body(prompt, chosen, options, raw=raw)
            body = resumption.body(body)
            response = await self._http.send(self._http.build_request("POST", path, json=body), stream=True)
            if response.status_code >= 400:
                async with aclosing(response):
                    raise error_from_response(self.url, response.status_code, await response.aread(), response.headers)
            return response

        builder = AnswerBuilder()
        resumption = Resumption(builder, self._resume_seconds, self._clock, random.Random())
        return AsyncAnswerStream(self.url, builder, resumption, opened)

    async def models(self) -> list[Model]:
        """What is served now. Errors of `generate`."""
        return models_from_response(await self._get("/v1/models"))

    async def state(self) -> dict[str, Any]:
        """The coordinator's own account of peers, leases and sessions (docs/reference/http-api.md)."""
        return state_from_response(await self._get("/api/state"))

    async def wall(self) -> float | None:
        """The coordinator's clock, in seconds since the Unix epoch to the second; None where it does not say."""
        with translated(self.url):
            return date_of((await self._http.get("/health")).headers)

    async def _get(self, path: str) -> bytes:
        with translated(self.url):
            response = await self._http.get(path)
        if response.status_code >= 400:
            raise error_from_response(self.url, response.status_code, response.content, response.headers)
        return response.content

    async def aclose(self) -> None:
        """Safe to call again."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncAnswerStream:
    """Pieces of one answer, in order; made by `AsyncClient.stream`; the request is sent when the first is asked for."""

    def __init__(
        self,
        url: str,
        builder: AnswerBuilder,
        resumption: Resumption,
        opened: Callable[[Resumption], Awaitable[httpx2.Response]],
    ) -> None:
        self._url, self._builder, self._resumption, self._opened = url, builder, resumption, opened
        self._pieces = self._read()

    def __aiter__(self) -> AsyncGenerator[Piece]:
        return self._pieces

    async def _read(self) -> AsyncGenerator[Piece]:
        """The pieces, over as many streams as it takes."""
        while True:
            try:
                async with aclosing(self._read_once()) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except WanspecError as error:
                if self._builder.complete:
                    return
                wait = self._resumption.wait(error)
            await asyncio.sleep(wait)

    async def _read_once(self) -> AsyncGenerator[Piece]:
        with translated(self._url):
            async with aclosing(await self._opened(self._resumption)) as response:
                check_stream(self._url, response.headers)
                async for event in httpx2.EventSource(response):
                    if not self._builder.done and (piece := self._builder.feed(event.data)) is not None:
                        yield piece
        self._builder.end()  # a stream that ended too early is an error, not a short answer

    @property
    def answer(self) -> Answer:
        """The whole answer, once the stream has been read to its end; LinkClosed before, also where it was left early:
        what came until then is in its pieces."""
        return self._builder.answer

    async def aclose(self) -> None:
        """Hang up; safe to call again."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
