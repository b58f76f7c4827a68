"""Requests and responses of the coordinator's HTTP API as pure functions: no sockets, shared by both clients."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import msgspec

from wanspec_p2p.client.answers import Answer, Model, Piece, Speculation, Usage
from wanspec_p2p.errors import (
    InvalidRequest,
    LinkClosed,
    RemoteProtocolError,
    RequestError,
    Unreachable,
    request_error,
)
from wanspec_p2p.types import FinishReason, PeerId, Privacy, TokenId
from wanspec_p2p.words import counted

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

GATEWAY_ERRORS = (502, 503, 504)
"""What a proxy answers while the coordinator behind it is away."""
FULL_FINGERPRINT = 64
"""Digits of an engine fingerprint; OpenAI's field for it holds the first few."""

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
        InvalidRequest: a conversation where text is needed, a message without role and content, or what JSON has no
            form for: half of a surrogate pair, or a number that is none.
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
        path, body["prompt"] = "/v1/completions", prompt
    else:
        messages = [("user", prompt)] if isinstance(prompt, str) else [_message(message) for message in prompt]
        path, body["messages"] = "/v1/chat/completions", [{"role": role, "content": text} for role, text in messages]
    _check_json(extension | body)  # a field of ours under its own name, and not as `wanspec`
    return path, body


def _check_json(fields: Mapping[str, object]) -> None:
    """Raises InvalidRequest with the first field that JSON has no form for."""
    for name, value in fields.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{name} is not valid Unicode: it holds half of a surrogate pair", param=name
            ) from error
        except (ValueError, TypeError) as error:  # a number that is none; an object of another library
            raise InvalidRequest(f"{name} cannot be sent as JSON: {error}", param=name) from error


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


def error_from_response(url: str, status: int, body: bytes, headers: Mapping[str, str]) -> RequestError | Unreachable:
    """The exception for a response of 400 or more, whoever wrote it: `Unreachable` for a proxy's with nobody behind."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        if status in GATEWAY_ERRORS:
            return Unreachable(f"{url} answered {status}, and not as a coordinator does; is the coordinator running?")
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
    """Collects the events of one answer, of one stream or several; `feed` each, then ask for `answer`.

    Attributes:
        token_ids: all so far.
        seed, fingerprint: what the answer is drawn with; empty until the stream has said it.
        done: the stream has come to its end.
        resumed: streams after the first go on where it broke off.
        broken: the last stream has ended before the answer did.
    """

    def __init__(self) -> None:
        self.token_ids: list[TokenId] = []
        self.seed = self.fingerprint = ""
        self.done = self.resumed = self.broken = False
        self._pieces: list[Piece] = []
        self._model = self._request = ""
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._speculation = Speculation()

    @property
    def begun(self) -> bool:
        """Something of it has come."""
        return bool(self._request)

    @property
    def complete(self) -> bool:
        """All of it has come, whatever becomes of the stream now."""
        return self.done and self._finish_reason is not None

    def resume(self) -> None:
        """The rest comes in another stream; where no token has come, from whichever engine is there."""
        self.resumed, self.broken = True, False
        if not self.token_ids:
            self.seed = self.fingerprint = ""

    @property
    def resumable(self) -> bool:
        """It is known what the tokens to come depend on, or none has come yet."""
        return not self.token_ids or bool(self.seed and len(self.fingerprint) == FULL_FINGERPRINT)

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
        extension = chunk.wanspec or _Extension(position=len(self.token_ids))
        self._request = extension.request or self._request or chunk.id
        self.seed = extension.seed or self.seed
        if extension.fingerprint and not extension.fingerprint.startswith(self.fingerprint.removeprefix("fp_")):
            raise ValueError("an engine with another fingerprint goes on with the answer")
        self.fingerprint = extension.fingerprint or self.fingerprint or chunk.system_fingerprint or ""
        text = ""
        for choice in chunk.choices[:1]:
            text = choice.text or (choice.delta.content if choice.delta else None) or ""
            if choice.finish_reason is not None:
                self._finish_reason = FinishReason(choice.finish_reason)
        if not text and not extension.token_ids:
            return None
        if self.resumed and not extension.token_ids and self._pieces and not self._pieces[-1].token_ids:
            return None  # the end of the text, which came before the stream broke
        return self._append(text, extension)

    def _append(self, text: str, extension: _Extension) -> Piece:
        ids = tuple(extension.token_ids)
        due = len(self.token_ids)
        if ids and extension.position != due:
            raise ValueError(f"token {due} was due, token {extension.position} came")
        if len(extension.origin) != len(ids):
            raise ValueError(f"{len(ids)} tokens came with {len(extension.origin)} origins")
        origins = tuple(None if origin is None else PeerId(origin) for origin in extension.origin)
        piece = Piece(text, ids, origins, due)
        self.token_ids.extend(ids)
        self._pieces.append(piece)
        return piece

    def end(self) -> None:
        """The stream has ended. Raises LinkClosed if the answer has not: it is broken, and not short."""
        if not self.complete:
            self.broken = True
            raise self._unfinished()

    def _unfinished(self) -> LinkClosed:
        count = counted(len(self.token_ids), "token")
        if self.broken:
            return LinkClosed(f"the coordinator broke off after {count}")
        return LinkClosed(f"the stream was left after {count}: there is an answer once it has been read to its end")

    @property
    def answer(self) -> Answer:
        """Raises LinkClosed if the stream ended, or was left, before the answer did."""
        if not self.complete or self._finish_reason is None:
            raise self._unfinished()
        usage = self._usage or Usage(prompt_tokens=0, completion_tokens=len(self.token_ids))
        return Answer(
            text="".join(piece.text for piece in self._pieces),
            token_ids=tuple(self.token_ids),
            origins=tuple(origin for piece in self._pieces for origin in piece.origins),
            finish_reason=self._finish_reason,
            # Of a resumed answer, a coordinator counts what it has sent itself.
            usage=replace(usage, completion_tokens=len(self.token_ids)) if self.resumed else usage,
            speculation=self._speculation,
            model=self._model,
            request=self._request,
            seed=self.seed,
            fingerprint=self.fingerprint,
        )
