"""A coordinator that says what it was told to, in the shape of the real one: for tests of the client and the CLI."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

NODE_A = "a" * 32
NODE_B = "b" * 32
TARGET = "t" * 32
FINGERPRINT = "f" * 64


@dataclass(frozen=True, slots=True)
class Commit:
    """What one event of the stream carries."""

    text: str
    ids: tuple[int, ...]
    origins: tuple[str | None, ...]


SCRIPT = (
    Commit("The", (504,), (None,)),
    Commit(" sky is", (6376, 314), (NODE_A, NODE_B)),
    Commit(" blue.", (4461, 30), (NODE_A, None)),
)


def _state(drafters: int) -> dict[str, Any]:
    nodes = [
        {"id": peer, "name": name, "models": [{"name": "smollm2-draft"}], "state": "active", "sessions": 1}
        | {"owner": owner, "site": site, "pool": "default"}
        for peer, name, owner, site in ((NODE_A, "lab-a", "ada", "north"), (NODE_B, "lab-b", "grace", "south"))
    ]
    target = {"id": TARGET, "name": "big", "model": {"name": "smollm2-135m"}, "state": "active", "sessions": 1}
    return {"nodes": nodes, "targets": [target | {"queued": 0, "drafters": drafters}]}


@dataclass
class FakeCoordinator:
    """Streams `script` to whoever asks; `requests` keeps what was asked.

    `fail_after` breaks the stream after that many events: with an error object if `error` is set, else silently.
    `breaks` says the same for one request after the other, and which goes on without: an answer is resumed after the
    tokens it has. `seed` is said with the first event, without which none can be.
    `empty` is a network without peers; `drafters` is what the target says it has. `lies_alone` changes the last token
    where nodes may not draft. `status` refuses every completion with `error` and that HTTP status.
    """

    script: tuple[Commit, ...] = SCRIPT
    models: tuple[str, ...] = ("smollm2-135m",)
    api_key: str | None = None
    status: int = 200
    error: dict[str, Any] | None = None
    fail_after: int | None = None
    breaks: list[int] = field(default_factory=list)
    seed: str | None = None
    empty: bool = False
    drafters: int = 2
    lies_alone: bool = False
    node_name: str = "lab-a"
    unmatched: str | None = None
    acceptance: list[dict[str, Any]] | None = field(default_factory=list)
    rtt_predictions: dict[str, Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(commit.text for commit in self.script)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for commit in self.script for token in commit.ids)

    @property
    def origins(self) -> tuple[str | None, ...]:
        return tuple(origin for commit in self.script for origin in commit.origins)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._completions, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/api/state", self._state),
                Route("/not-ours", self._foreign),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            error = {"message": "this key is not known", "type": "authentication_error", "code": "invalid_api_key"}
            return JSONResponse({"error": error}, 401)
        if self.status != 200:
            return JSONResponse({"error": self.error}, self.status, headers={"Retry-After": "7"})
        return None

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        if refusal := self._refusal(request):
            return refusal
        self.requests.append(body)
        chat = request.url.path.endswith("chat/completions")
        return StreamingResponse(self._events(body, chat), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        position = 0
        had = len(body.get("wanspec", {}).get("committed", ()))
        fail_after = self.breaks.pop(0) if self.breaks else self.fail_after
        begun = False
        for index, commit in enumerate(self.script):
            if index == fail_after:
                if self.error is not None:
                    yield f"data: {json.dumps({'error': self.error})}\n\n"
                return
            if position < had:
                position += len(commit.ids)
                continue
            choice = {"delta": {"content": commit.text}} if chat else {"text": commit.text}
            alone = body.get("wanspec", {}).get("network") is False
            ids = list(commit.ids)
            if alone and self.lies_alone and commit is self.script[-1]:
                ids[-1] += 1
            origin = [None] * len(ids) if alone else list(commit.origins)
            extension = {"request": "req-1", "position": position, "token_ids": ids, "origin": origin}
            if self.seed is not None and not begun:
                begun, extension = True, extension | {"seed": self.seed, "fingerprint": FINGERPRINT}
            yield self._event(body, [choice | {"index": 0, "finish_reason": None}], wanspec=extension)
            position += len(commit.ids)
        yield self._event(body, [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}])
        yield self._event(
            body,
            [],
            usage={"prompt_tokens": 9, "completion_tokens": position - had, "total_tokens": 9 + position - had},
            metrics={"wanspec": self.metrics()},
        )
        yield "data: [DONE]\n\n"

    def metrics(self) -> dict[str, Any]:
        won = {peer: self.origins.count(peer) for peer in self.origins if peer is not None}
        accepted = sum(won.values())
        rounds = len(self.script)
        return {
            "rounds": rounds,
            "drafted": accepted + 2,
            "accepted": accepted,
            "accepted_per_round": accepted / rounds,
            "target_draft_passes": 0,
            "won_by_peer": won,
            "near_ties": 0,
            "seconds": 0.25,
        }

    def _event(self, body: dict[str, Any], choices: list[dict[str, Any]], **more: object) -> str:
        chunk = {"id": "chatcmpl-1", "model": body["model"], "system_fingerprint": FINGERPRINT, "choices": choices}
        return f"data: {json.dumps(chunk | more)}\n\n"

    async def _models(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(
            {"object": "list", "data": [{"id": name, "object": "model", "context": 8192} for name in self.models]}
        )

    async def _state(self, request: Request) -> Response:
        state = {"nodes": [], "targets": []} if self.empty else _state(self.drafters)
        for node in state["nodes"][:1]:
            node |= {"name": self.node_name, "unmatched": self.unmatched}
        if self.acceptance is not None:
            state["acceptance"] = self.acceptance
        if self.rtt_predictions is not None:
            state["rtt_predictions"] = self.rtt_predictions
        return self._refusal(request) or JSONResponse(state)

    async def _foreign(self, request: Request) -> Response:
        return Response("<html>502 Bad Gateway</html>", 502)


@contextlib.contextmanager
def serving(fake: FakeCoordinator, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The fake on a real loopback port, in a thread, until the block ends; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    cert, key = certificate or (None, None)
    config = uvicorn.Config(fake.app(), log_level="critical", lifespan="off", ssl_certfile=cert, ssl_keyfile=key)
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        uvicorn_server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive(), "the fake coordinator did not stop"
