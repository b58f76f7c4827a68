from __future__ import annotations

from typing import Any

import httpx2
import pytest

from coordinator.access import LoopbackGuard
from coordinator.openai_routes import json_response


async def get(headers: dict[str, str], names: tuple[str, ...] = ()) -> httpx2.Response:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await json_response({"let": "in"})(scope, receive, send)

    guard = LoopbackGuard(inner, names=names)
    transport = httpx2.ASGITransport(guard)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        return await http.get("/v1/models", headers=headers)


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:9", "LOCALHOST"])
async def test_local_names_are_let_in(host: str) -> None:
    assert (await get({"host": host})).json() == {"let": "in"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::", ""])
async def test_a_rebound_name_is_refused(host: str) -> None:
    response = await get({"host": host})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_permitted")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://[::1]", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost@evil.example", 403),
        ("http://[", 403),
    ],
)
async def test_origins(origin: str, status: int) -> None:
    assert (await get({"origin": origin})).status_code == status


async def test_a_proxys_name_is_let_in_where_it_is_named() -> None:
    assert (await get({"host": "llm.example"}, ("LLM.example",))).status_code == 200


async def test_who_is_refused_is_told_every_name_it_answers_to() -> None:
    refused = await get({"host": "evil.example"}, ("127.0.0.2", "llm.example"))
    assert refused.json()["error"]["message"] == (
        "this coordinator answers to localhost, 127.0.0.1, 127.0.0.2, llm.example and [::1] only"
    )
