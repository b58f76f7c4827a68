"""Who may use the HTTP API: API keys, and on loopback the checks that keep web pages out.

A page in a browser on this machine can reach a loopback port: directly (its requests carry an `Origin`), or under a
name of its own that resolves to 127.0.0.1 (DNS rebinding: its requests carry that name as `Host`). Both are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.ledger import Ledger
from coordinator.openai_responses import error_body
from wanspec_p2p.errors import NotPermitted, Unauthenticated

__all__ = ["ApiKeys", "LoopbackGuard"]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class ApiKeys:
    """Args:
    optional: local users need no key as long as none has ever been made (loopback).
    """

    def __init__(self, ledger: Ledger, *, optional: bool) -> None:
        self._ledger, self._optional = ledger, optional

    async def check(self, headers: Headers) -> None:
        """Raises Unauthenticated."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if self._optional and not await self._ledger.api_keys_exist():
            return
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("an API key is needed: send `Authorization: Bearer KEY`")
        if await self._ledger.api_key_name(key.strip()) is None:
            raise Unauthenticated("this API key is not known here")


class LoopbackGuard:
    """ASGI middleware in front of everything a loopback coordinator serves, websockets included.

    Args:
        names: host names besides the usual loopback ones by which it may be called (a proxy's, 127.0.0.2).
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}
        others = "".join(f", {name}" for name in sorted(self._names - LOOPBACK_NAMES))
        self._answers_to = f"this coordinator answers to localhost, 127.0.0.1{others} and [::1] only"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self._app(scope, receive, send)
            return
        body = msgspec.json.encode(error_body(NotPermitted(reason)))
        # For a websocket, Starlette turns a response sent before the handshake into a refusal of it.
        await Response(body, 403, media_type="application/json")(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        if _host_name(f"//{headers.get('host', '')}") not in self._names:
            return self._answers_to
        origin = headers.get("origin")
        if origin is not None and _host_name(origin) not in self._names:
            return "requests of web pages are not answered"
        return None


def _host_name(url: str) -> str | None:
    """None where there is none, or where it is malformed."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
