"""nginx ends TLS before a coordinator, as docs/how-to/run-a-coordinator.md has it: everything passes, as it is made."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.nginx import nginx_in_front
from tests.support.scripted_models import ScriptedModel
from tests.support.scripted_services import MODEL, Services, running_services
from tests.support.whole_network import WholeNetwork, free_port, scripted
from wanspec_p2p.client import AsyncClient, Client
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import RemoteProtocolError, Unreachable
from wanspec_p2p.links import membership
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.security.tls import certificate_fingerprint
from wanspec_p2p.target import service

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SECONDS = 60.0
LONG = 4000
"""Tokens of an answer that takes most of a minute."""
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Front:
    services: Services
    directory: Path
    certificate: Path
    fingerprint: str

    @contextlib.contextmanager
    def asking(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """A request as any client makes it: the certificate is named as an authority, and checked with its name."""
        address = urlsplit(self.services.url)
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection(address.hostname or "", address.port, timeout=SECONDS, context=context)
        said = {"authorization": f"Bearer {self.services.key}", "content-type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, said | headers)
            yield connection.getresponse()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A coordinator that only nginx reaches; target and nodes have joined by its public address."""
    directory = tmp_path_factory.mktemp("front")
    certificate, key = load_or_create_certificate(directory, "localhost", clock=SystemClock())
    listen, port = free_port(), free_port()
    public = ("--port", str(port), "--public-url", f"https://localhost:{listen}", "--proxy-cert", str(certificate))
    with contextlib.ExitStack() as stack:
        stack.enter_context(nginx_in_front(directory, certificate=certificate, key=key, listen=listen, port=port))
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setenv("SSL_CERT_FILE", str(certificate))
        services = stack.enter_context(running_services(directory, run=public))
        assert services.url == f"https://localhost:{listen}"
        yield Front(services, directory, certificate, certificate_fingerprint(certificate))


def test_peers_are_linked_through_it_and_pin_its_certificate(front: Front) -> None:
    for peer in ("target", "node-0", "node-1"):
        known = membership.load(front.directory / peer / "coordinator.json")
        assert known is not None
        assert (known.url, known.certificate) == (front.services.url.replace("https", "wss"), front.fingerprint)


def test_our_client_streams_through_it(front: Front) -> None:
    with Client(front.services.url, api_key=front.services.key, fingerprint=front.fingerprint) as client:
        with client.stream("hi", model=MODEL, max_tokens=64, temperature=0.0) as stream:
            pieces = list(stream)
        assert len(stream.answer.token_ids) == 64 and len(pieces) > 1
        assert stream.answer.speculation.accepted > 0, "nodes help"
    with Client(front.services.url, api_key=front.services.key, fingerprint="0" * 64) as client:
        with pytest.raises(RemoteProtocolError, match="fingerprint"):
            client.models()


def test_a_stream_passes_as_it_is_made_and_can_be_hung_up_on(front: Front) -> None:
    with front.asking("POST", "/v1/chat/completions", asked(max_tokens=LONG, stream=True)) as response:
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert json.loads(response.readline().removeprefix(b"data: "))["choices"]
        assert front.services.get("/api/state")["answers"] == 1
    nothing_is_left(front.services)


def test_a_whole_answer_passes(front: Front) -> None:
    with front.asking("POST", "/v1/chat/completions", asked(max_tokens=12)) as response:
        answer = json.load(response)
    assert response.headers["x-request-id"] == answer["wanspec"]["request"]
    assert answer["usage"]["completion_tokens"] == 12


def test_who_is_let_in_does_not_depend_on_forwarded_headers(front: Front) -> None:
    forged = {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "localhost", "x-forwarded-proto": "http"}
    forged |= {"forwarded": "for=127.0.0.1;host=localhost;proto=http", "x-real-ip": "127.0.0.1"}
    with front.asking("GET", "/v1/models", **forged, authorization="") as response:
        assert (response.status, json.load(response)["error"]["code"]) == (401, "invalid_api_key")
    with front.asking("GET", "/v1/models", **forged | {"x-forwarded-host": "evil.example"}) as response:
        assert response.status == 200
    with front.asking("GET", "/v1/models", host="evil.example") as response:
        assert response.status == 403, "somebody's own name for us"


@pytest.mark.parametrize("mebibytes", [1.5, 4.5])
def test_what_is_too_large_is_refused_by_us_and_not_by_nginx(front: Front, mebibytes: float) -> None:
    body = asked(messages=[{"role": "user", "content": "x" * int(mebibytes * MEBIBYTE)}])
    with front.asking("POST", "/v1/chat/completions", body) as response:
        assert response.status == 400
        assert json.load(response)["error"]["type"] == "invalid_request_error"


async def test_an_answer_goes_on_when_the_coordinator_comes_back_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(name: str, **how: object) -> ScriptedModel:
        return ScriptedModel(1, name="big", before_forward=lambda batch: asyncio.sleep(0.02))

    scripted(monkeypatch)
    monkeypatch.setattr(service, "load_language_model", slow)
    certificate, key = load_or_create_certificate(tmp_path, "localhost", clock=SystemClock())
    listen, port = free_port(), free_port()
    network = WholeNetwork(tmp_path, port=port, public_url=f"https://localhost:{listen}", proxy_cert=certificate)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(nginx_in_front(tmp_path, certificate=certificate, key=key, listen=listen, port=port))
        async with network.coordinator() as url:
            client = await stack.enter_async_context(AsyncClient(url, fingerprint=certificate_fingerprint(certificate)))
            await stack.enter_async_context(network.target())
            await stack.enter_async_context(network.node())
            await network.drafting(client)
            undisturbed = await client.generate("hi", model="big", max_tokens=100, temperature=0.0)
            stream = client.stream("hi", model="big", max_tokens=100, temperature=0.0)
            assert (await anext(aiter(stream))).token_ids
        with pytest.raises(Unreachable):  # nginx says 502
            await client.models()
        async with asyncio.timeout(SECONDS), network.coordinator():
            assert [piece async for piece in stream], "the rest"
            assert stream.answer.token_ids == undisturbed.token_ids


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0} | fields
