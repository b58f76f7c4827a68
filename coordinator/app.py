"""One port for everything: websockets for peers, the OpenAI API, health, metrics and state."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Collection

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from coordinator.access import ApiKeys, LoopbackGuard
from coordinator.connections import MAX_PATH_SHOWN
from coordinator.endpoints import Endpoints
from coordinator.executor import Executor
from coordinator.ledger import LedgerError
from coordinator.openai_responses import error_body
from coordinator.openai_routes import OpenAiRoutes, json_response
from coordinator.records import PeerState
from coordinator.state import snapshot
from coordinator.websocket_transport import AsgiWebSocketTransport
from wanspec_p2p.errors import RequestError, RequestTimeout
from wanspec_p2p.protocol import limits
from wanspec_p2p.types import Role

__all__ = ["NODE_PATH", "TARGET_PATH", "create_app"]

RETRY_SECONDS = 1.0
READY_SECONDS = 5.0
"""How long it counts that the ledger could be written, or could not: to find out takes a write, and anybody may ask."""
NODE_PATH, TARGET_PATH = "/wanspec/node", "/wanspec/target"

log = structlog.get_logger("coordinator")


def create_app(
    executor: Executor,
    *,
    channel_binding: bytes = b"",
    host_names: Collection[str] = (),
    random_seed: Callable[[], bytes] = lambda: secrets.token_bytes(16),
) -> Starlette:
    """Args:
    channel_binding: `security.tls.channel_binding` of our certificate; empty without TLS.
    host_names: names besides the usual loopback ones by which a loopback coordinator may be called.
    random_seed: 16 random bytes for requests that bring no seed.
    """
    loopback = executor.settings.loopback
    keys = ApiKeys(executor.ledger, optional=not executor.settings.exposed)
    endpoints = Endpoints(executor)
    guard = [Middleware(LoopbackGuard, names=host_names)] if loopback else []
    app = Starlette(
        routes=[
            *OpenAiRoutes(executor, keys, random_seed=random_seed).routes(),
            *_operations(executor, keys),
            _peers(endpoints, NODE_PATH, Role.NODE, channel_binding),
            _peers(endpoints, TARGET_PATH, Role.TARGET, channel_binding),
            WebSocketRoute("/{path:path}", _no_peers_here),
        ],
        middleware=guard,
        exception_handlers={
            RequestError: _on_request_error,
            LedgerError: _on_ledger_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_hung_up,
            Exception: _on_our_fault,
        },
    )
    app.router.redirect_slashes = False  # behind a proxy that ends TLS it would lead to plain HTTP
    return app


def _peers(endpoints: Endpoints, path: str, role: Role, channel_binding: bytes) -> WebSocketRoute:
    async def serve(websocket: WebSocket) -> None:
        if limits.SUBPROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.send_denial_response(Response(f"subprotocol {limits.SUBPROTOCOL} expected\n", 400))
            return
        if "origin" in websocket.headers:  # only browsers name one, and nothing of ours runs in a browser
            await websocket.send_denial_response(Response("web pages are no peers\n", 403))
            return
        await websocket.accept(limits.SUBPROTOCOL)
        await endpoints.serve(AsgiWebSocketTransport(websocket, channel_binding), role)

    return WebSocketRoute(path, serve)


async def _no_peers_here(websocket: WebSocket) -> None:
    await websocket.send_denial_response(Response(f"peers connect at {NODE_PATH} and {TARGET_PATH}\n", 404))


class _Writable:
    """Whether the ledger can be written, found out once in `READY_SECONDS` for all who ask."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._turn = asyncio.Lock()
        self._known_until, self._fine = -math.inf, False

    async def __call__(self) -> bool:
        async with self._turn:
            if self._executor.clock.monotonic() >= self._known_until:
                try:
                    await self._executor.ledger.check_writable()
                    self._fine = True
                except LedgerError as error:
                    log.error("ledger", reason=str(error))
                    self._fine = False
                self._known_until = self._executor.clock.monotonic() + READY_SECONDS
            return self._fine


def _operations(executor: Executor, keys: ApiKeys) -> list[Route]:
    writable = _Writable(executor)

    async def health(request: Request) -> Response:
        return json_response({"status": "alive"})

    async def ready(request: Request) -> Response:
        if not any(target.state is PeerState.ACTIVE for target in executor.registry.targets.values()):
            return json_response({"status": "not ready", "reason": "no target is connected"}, 503)
        if not await writable():
            return json_response({"status": "not ready", "reason": "the ledger cannot be written"}, 503)
        return json_response({"status": "ready"})

    async def metrics(request: Request) -> Response:
        return Response(executor.metrics.render(), media_type="text/plain; version=0.0.4")

    async def state(request: Request) -> Response:
        await keys.check(request.headers)
        return json_response(snapshot(executor, await executor.ledger.acceptance(now=executor.clock.wall())))

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/api/state", state, methods=["GET"]),
    ]


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # Starlette looks handlers up by class
    headers: dict[str, str] = {}
    if hasattr(request.state, "request_id"):
        headers["x-request-id"] = request.state.request_id
    wait = error.retry_after
    if wait is None and error.status == 503:
        wait = RETRY_SECONDS  # a target said so, and names no time
    if wait is not None:
        headers["retry-after"] = str(max(1, round(wait)))
    if isinstance(error, RequestTimeout):
        headers["x-should-retry"] = "false"  # openai's clients repeat a 408, and this one took minutes already
    return json_response(error_body(error), error.status, headers)


async def _on_ledger_error(request: Request, error: Exception) -> Response:
    log.error("ledger", reason=str(error))
    return json_response(error_body(RequestError("the coordinator cannot read its ledger")), 503, {"retry-after": "5"})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": "not_found"}
    if error.status_code == 404:
        body["message"] = f"there is nothing at {request.url.path[:MAX_PATH_SHOWN]}: {_instead(request.url.path)}"
    else:
        body["code"] = "method_not_allowed" if error.status_code == 405 else "invalid_request"
    return json_response({"error": body}, error.status_code, dict(error.headers or {}))


def _instead(path: str) -> str:
    """What to do about a path where nothing is."""
    if path.startswith("/v1/v1/"):
        return "the base URL has /v1 twice"
    if path.startswith("/v1/"):
        return "of the OpenAI API there are /v1/models, /v1/chat/completions and /v1/completions"
    return "the OpenAI API is under /v1 (a base URL ends with it)"


async def _on_our_fault(request: Request, error: Exception) -> Response:
    return json_response(error_body(RequestError("an error of the coordinator's own; its log has the details")), 500)


async def _on_hung_up(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
