"""The client for code without an event loop; `asynchronous.py` is the same, awaited."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx2

from wanspec_p2p.client.answers import Answer, Model, Piece
from wanspec_p2p.client.connection import DEFAULT_TIMEOUT, Endpoint, only_model, translated
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

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Unpack

__all__ = ["AnswerStream", "Client"]


class Client:
    """A coordinator, seen by a submitter. Keeps its connections; close it, or use it as a context manager.

    Args:
        url: the coordinator's address; plain http to this machine only.
        api_key: as `wanspec coordinator key` printed it.
        fingerprint: SHA-256 of the coordinator's certificate, where it made its own (the join token carries it too).
        timeout: seconds of silence after which a request has failed.

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
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        endpoint = Endpoint(url.rstrip("/"), api_key, fingerprint)
        self.url = endpoint.url
        self._http = httpx2.Client(**endpoint.http_options(timeout), transport=transport)

    def generate(
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
        with self.stream(prompt, model=model, raw=raw, **options) as stream:
            for _ in stream:
                pass
            return stream.answer

    def stream(
        self, prompt: str | Messages, *, model: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> AnswerStream:
        """The answer as it is committed: iterate for pieces, then read `.answer`. Arguments and errors of `generate`.

        Leaving the stream early cancels the request at the target.
        """

        def opened() -> httpx2.Response:
            path, body = request_body(prompt, model or only_model(self.models()), options, raw=raw)
            response = self._http.send(self._http.build_request("POST", path, json=body), stream=True)
            if response.status_code >= 400:
                with closing(response):
                    raise error_from_response(self.url, response.status_code, response.read(), response.headers)
            return response

        return AnswerStream(self.url, opened)

    def models(self) -> list[Model]:
        """What is served now. Errors of `generate`."""
        return models_from_response(self._get("/v1/models"))

    def state(self) -> dict[str, Any]:
        """The coordinator's own account of peers, leases and sessions (docs/reference/http-api.md)."""
        return state_from_response(self._get("/api/state"))

    def wall(self) -> float | None:
        """The coordinator's clock, in seconds since the Unix epoch to the second; None where it does not say."""
        with translated(self.url):
            return date_of(self._http.get("/health").headers)

    def _get(self, path: str) -> bytes:
        with translated(self.url):
            response = self._http.get(path)
        if response.status_code >= 400:
            raise error_from_response(self.url, response.status_code, response.content, response.headers)
        return response.content

    def close(self) -> None:
        """Safe to call again."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AnswerStream:
    """Pieces of one answer, in order; made by `Client.stream`; the request is sent when the first is asked for."""

    def __init__(self, url: str, opened: Callable[[], httpx2.Response]) -> None:
        self._url = url
        self._opened = opened
        self._builder = AnswerBuilder()
        self._pieces = self._read()

    def __iter__(self) -> Generator[Piece]:
        return self._pieces

    def _read(self) -> Generator[Piece]:
        with translated(self._url), closing(self._opened()) as response:
            check_stream(self._url, response.headers)
            for event in httpx2.EventSource(response):
                if not self._builder.done and (piece := self._builder.feed(event.data)) is not None:
                    yield piece
        _ = self._builder.answer  # a stream that ended too early is an error, not a short answer

    @property
    def answer(self) -> Answer:
        """The whole answer, once the stream has been read to its end; LinkClosed before."""
        return self._builder.answer

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
