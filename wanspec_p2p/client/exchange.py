"""Requests and responses of the coordinator's HTTP API as pure functions: no sockets, shared by both clients."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from wanspec_p2p.client.answers import Answer, Model, Piece, Speculation, Usage
from wanspec_p2p.errors import InvalidRequest, LinkClosed, RemoteProtocolError, RequestError, request_error
from wanspec_p2p.types import FinishReason, PeerId, Privacy

__all__ = [
    "AnswerBuilder",
    "Messages",
    "Options",
    "check_stream",
    "date_of",
    "error_from_response",
    "models_from_response",
    "request_body",
    "state_from_response",
]

Messages = Sequence[Mapping[str, str] | tuple[str, str]]
"""A conversation: {"role": …, "content": …} or (role, content), oldest first."""


class Options(TypedDict, total=False):
    """How an answer is drawn; what is left out is the coordinator's default (docs/reference/http-api.md)."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_tokens: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | str
    """A number of your own, or the `seed` of an answer that is to be repeated."""
    stop: str | Sequence[str]
    privacy: Privacy | str
    """Who may see the prompt: `public`, `trusted` or `private`."""
    network: bool
    """False: the target decodes alone."""


def request_body(prompt: str | Messages, model: str, options: Options, *, raw: bool) -> tuple[str, dict[str, object]]:
    """The path and the JSON body of a streamed request.

    Args:
        raw: the prompt is text to be continued as it stands, not a message to be answered.

    Raises:
        InvalidRequest: a conversation where text is needed, or a message without role and content.
    """
    body: dict[str, object] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    extension: dict[str, object] = {}
    for key, value in options.items():
        ours = key in ("privacy", "network") or (key == "seed" and isinstance(value, str))
        (extension if ours else body)[key] = value
    if extension:
        body["wanspec"] = extension
    if bias := options.get("logit_bias"):
        body["logit_bias"] = {str(token): value for token, value in bias.items()}
    if raw:
        if not isinstance(prompt, str):
            raise InvalidRequest("raw completion takes text, not a list of messages", param="prompt")
        return "/v1/completions", body | {"prompt": prompt}
    messages = [("user", prompt)] if isinstance(prompt, str) else [_message(message) for message in prompt]
    return "/v1/chat/completions", body | {"messages": [{"role": role, "content": text} for role, text in messages]}


def _message(message: Mapping[str, str] | tuple[str, str]) -> tuple[str, str]:
    try:
        role, content = (message["role"], message["content"]) if isinstance(message, Mapping) else message
    except (KeyError, ValueError) as error:
        raise InvalidRequest("a message needs a role and a content", param="messages") from error
    return role, content


class _Error(msgspec.Struct):
    message: str
    code: str | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


def check_stream(url: str, headers: Mapping[str, str]) -> None:
    """Raises RemoteProtocolError unless the response is a stream of events."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip()
    if kind != "text/event-stream":
        raise RemoteProtocolError(f"{url} answered with {kind or 'something unnamed'}, not with a stream of tokens")


def date_of(headers: Mapping[str, str]) -> float | None:
    """The Date header (RFC 9110 §6.6.1) as seconds since the Unix epoch."""
    try:
        return email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return None


def error_from_response(url: str, status: int, body: bytes, headers: Mapping[str, str]) -> RequestError:
    """The exception for a response of 400 or more, whoever wrote it."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        return RequestError(f"{url} answered {status}, and not as a coordinator does; is the address right?")
    retry_after = headers.get("Retry-After", "")
    wait = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    return request_error(error.code or "", error.message, param=error.param, retry_after=wait)


def models_from_response(body: bytes) -> list[Model]:
    try:
        entries = msgspec.json.decode(body, type=_ModelList).data
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the list of models is not one: {error}") from error
    return [Model(str(entry.get("id", "")), entry) for entry in entries]


def state_from_response(body: bytes) -> dict[str, Any]:
    try:
        state: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the state is not JSON: {error}") from error
    return state


class _ModelList(msgspec.Struct):
    data: list[dict[str, object]]


# Only what we use is named; a coordinator may add fields, as OpenAI's API does.
class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Extension(msgspec.Struct):
    request: str = ""
    position: int = 0
    token_ids: list[int] = []
    origin: list[str | None] = []
    seed: str = ""
    fingerprint: str = ""


class _Metrics(msgspec.Struct):
    wanspec: Speculation | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    model: str = ""
    system_fingerprint: str | None = None
    choices: list[_Choice] = []
    usage: Usage | None = None
    wanspec: _Extension | None = None
    metrics: _Metrics | None = None
    error: _Error | None = None


class AnswerBuilder:
    """Collects the events of one stream; `feed` each, then ask for `answer`."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._tokens = 0
        self._model = self._request = self._fingerprint = self._seed = ""
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._speculation = Speculation()
        self.done = False

    def feed(self, data: str) -> Piece | None:
        """One event's data; a piece if it carried text or tokens.

        Raises:
            RequestError: the coordinator reports that the answer failed.
            RemoteProtocolError: the data is not what the API promises.
        """
        if data == "[DONE]":
            self.done = True
            return None
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
            if chunk.error is not None:
                raise request_error(chunk.error.code or "", chunk.error.message, param=chunk.error.param)
            return self._read(chunk)
        except (msgspec.DecodeError, ValueError) as error:
            raise RemoteProtocolError(f"the stream does not follow the API: {error}") from error

    def _read(self, chunk: _Chunk) -> Piece | None:
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        if chunk.metrics and chunk.metrics.wanspec:
            self._speculation = chunk.metrics.wanspec
        extension = chunk.wanspec or _Extension(position=self._tokens)
        self._request = extension.request or self._request or chunk.id
        self._seed = extension.seed or self._seed
        # The last chunk spells it out; OpenAI's field holds the beginning.
        self._fingerprint = extension.fingerprint or self._fingerprint or chunk.system_fingerprint or ""
        text = ""
        for choice in chunk.choices[:1]:
            text = choice.text or (choice.delta.content if choice.delta else None) or ""
            if choice.finish_reason is not None:
                self._finish_reason = FinishReason(choice.finish_reason)
        if not text and not extension.token_ids:
            return None
        return self._append(text, extension)

    def _append(self, text: str, extension: _Extension) -> Piece:
        ids = tuple(extension.token_ids)
        if ids and extension.position != self._tokens:
            raise ValueError(f"token {self._tokens} was due, token {extension.position} came")
        if len(extension.origin) != len(ids):
            raise ValueError(f"{len(ids)} tokens came with {len(extension.origin)} origins")
        origins = tuple(None if origin is None else PeerId(origin) for origin in extension.origin)
        piece = Piece(text, ids, origins, self._tokens)
        self._tokens += len(ids)
        self._pieces.append(piece)
        return piece

    @property
    def answer(self) -> Answer:
        """Raises LinkClosed if the stream ended before the answer did."""
        if not self.done or self._finish_reason is None:
            raise LinkClosed(f"the coordinator broke off after {self._tokens} tokens")
        return Answer(
            text="".join(piece.text for piece in self._pieces),
            token_ids=tuple(token for piece in self._pieces for token in piece.token_ids),
            origins=tuple(origin for piece in self._pieces for origin in piece.origins),
            finish_reason=self._finish_reason,
            usage=self._usage or Usage(prompt_tokens=0, completion_tokens=self._tokens),
            speculation=self._speculation,
            model=self._model,
            request=self._request,
            seed=self._seed,
            fingerprint=self._fingerprint,
        )
