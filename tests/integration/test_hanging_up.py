"""A submitter hangs up, over a real socket: the session at the target and every draft end at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import coordinator.service
import node.daemon
import wanspec_p2p.target.service
from coordinator.admin import issue_join_token
from coordinator.settings import CoordinatorSettings
from node.settings import NodeSettings
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.scripted_services import MODEL, drafter_model, target_model
from tests.support.whole_network import running
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role

SOON = 5.0
"""Seconds; the answer that is hung up on would take eight times as long."""


@dataclass
class World:
    url: str
    target: ScriptedModel
    drafter: ScriptedModel

    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    async def ask(self, path: str, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.address()
        reader, writer = await asyncio.open_connection(host, port)
        data = json.dumps(body).encode()
        writer.write(f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return reader, writer

    async def get(self, path: str) -> str:
        host, port = self.address()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return text

    async def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.get("/api/state")).partition("\r\n\r\n")[2])
        return found


async def until(condition: Callable[[], object]) -> None:
    """Nobody tells when a cache is gone: look again at every turn of the loop."""
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    target, drafter = target_model(), drafter_model()

    def loading(model: ScriptedModel) -> Callable[..., Coroutine[Any, Any, ScriptedModel]]:
        async def load(name: str, **options: object) -> ScriptedModel:
            return model

        return load

    monkeypatch.setattr(wanspec_p2p.target.service, "load_language_model", loading(target))
    monkeypatch.setattr(wanspec_p2p.target.service, "load_tokenizer", lambda name, **options: ByteTokenizer())
    monkeypatch.setattr(node.daemon, "load_language_model", loading(drafter))
    ours = CoordinatorSettings(data_dir=tmp_path / "coordinator")

    def peer(kind: Any, role: Role) -> Any:
        token = issue_join_token(ours, role=role).encode()
        return kind(data_dir=tmp_path / role.value, cache_dir=tmp_path, model=MODEL, join=token)

    async with running(coordinator.service.run, ours) as url:
        async with running(wanspec_p2p.target.service.run, peer(TargetSettings, Role.TARGET)):
            async with running(node.daemon.run, peer(NodeSettings, Role.NODE)):
                yield World(url, target, drafter)


CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000, "temperature": 0}


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
async def test_the_session_and_its_drafts_end_at_once(world: World, stream: bool) -> None:
    reader, writer = await world.ask("/v1/chat/completions", CHAT | {"stream": stream})
    if stream:
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"token_ids")
    await until(lambda: world.target.caches and world.drafter.caches)
    writer.close()
    await until(lambda: not world.target.caches and not world.drafter.caches)
    passes = len(world.target.batches)
    assert (await world.state())["answers"] == 0
    assert 'wanspec_requests_total{outcome="cancelled"} 1.0' in await world.get("/metrics")
    assert len(world.target.batches) == passes, "the target went on with it"


async def test_an_answer_is_whole_after_another_was_hung_up_on(world: World) -> None:
    _, writer = await world.ask("/v1/chat/completions", CHAT)
    await until(lambda: world.target.caches)
    writer.transport.abort()  # no goodbye: what a submitter that crashed leaves
    reader, second = await world.ask("/v1/chat/completions", CHAT | {"max_tokens": 20})
    async with asyncio.timeout(SOON):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.decode().lower().splitlines() if line.startswith("content-length"))
        body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
    assert len(body["wanspec"]["token_ids"]) == 20
    second.close()
    await until(lambda: not world.target.caches)
