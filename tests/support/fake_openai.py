"""An OpenAI-compatible service on loopback whose delays are injected, and which can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["FakeOpenAI", "event", "serving"]


def event(text: str | None = None, *, finish: str | None = None, **more: Any) -> str:
    """One line of a chat completion's stream."""
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]} | more)}\n\n"


@dataclass
class FakeOpenAI:
    """`first` and `each` are seconds before the first token and before each further one."""

    first: float = 0.0
    each: float = 0.0
    tokens: int = 5
    status: int = 200
    redirect: str | None = None
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)  # of its streams
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # released by each request
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)  # headers and bodies

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._completions, methods=["POST"])])

    async def _completions(self, request: Request) -> Response:
        self.seen.append((dict(request.headers), await request.json()))
        self.asked.release()
        if self.redirect is not None:
            return RedirectResponse(self.redirect, 307)
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "Incorrect API key provided: sk-echoed"}}, 401)
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status)
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=self.headers)

    async def _events(self) -> AsyncIterator[str]:
        yield event("", role="assistant")  # OpenAI's first chunk carries no text
        await asyncio.sleep(self.first)
        for number in range(self.tokens):
            if number:
                await asyncio.sleep(self.each)
            yield event(f"word {number} ")
        yield event(finish="length")
        yield event(usage={"prompt_tokens": 3, "completion_tokens": self.tokens, "total_tokens": 3 + self.tokens})
        yield "data: [DONE]\n\n"


@contextlib.contextmanager
def serving(fake: FakeOpenAI) -> Iterator[str]:
    """The fake on a loopback port, in a thread, until the block ends; yields its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    service = uvicorn.Server(uvicorn.Config(fake.app(), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=service.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        service.should_exit = True
        thread.join(10)
        listener.close()
