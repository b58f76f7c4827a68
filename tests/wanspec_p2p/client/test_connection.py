from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest

from wanspec_p2p.client import AsyncClient, Client
from wanspec_p2p.client.answers import Model
from wanspec_p2p.client.connection import Endpoint, only_model, translated
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError, LinkClosed, NoTarget, RequestTimeout, UnknownModel, Unreachable
from wanspec_p2p.security.self_made import load_or_create_certificate


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "http://[::1]:1", "http://localhost:8", "https://c.example"])
def test_addresses_that_are_fine(url: str) -> None:
    assert Endpoint(url, None, None).loopback is ("c.example" not in url)


@pytest.mark.parametrize(
    ("url", "fingerprint", "says"),
    [
        ("c.example:80", None, "is not a coordinator's address"),
        ("ws://127.0.0.1:80", None, "is not a coordinator's address"),
        ("http://c.example", None, "plain http to another machine"),
        ("http://127.0.0.1.example.org", None, "plain http to another machine"),
        ("http://127.0.0.1:80", "ab" * 32, "needs an https:// address"),
        ("https://[::1", None, "cannot be asked"),
        ("https://host:abc", None, "cannot be asked"),
    ],
)
def test_addresses_that_are_not(url: str, fingerprint: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Endpoint(url, None, fingerprint)


def test_the_key_travels_as_a_bearer_token_and_only_if_there_is_one() -> None:
    assert Endpoint("https://c", "k", None).headers["Authorization"] == "Bearer k"
    assert Endpoint("https://c", "k\n", None).headers["Authorization"] == "Bearer k"
    for none in (None, "", "\n"):
        assert "Authorization" not in Endpoint("https://c", none, None).headers


@pytest.mark.parametrize("key", ["wsk-\u2026", "one two", "one\ntwo", "k\0"])
def test_what_cannot_be_a_key_is_told_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError, match="the API key holds") as told:
        Endpoint("https://c", key, None)
    assert key not in str(told.value)


@pytest.mark.parametrize("url", ["https://c", "https://c/", "https://c/v1", "https://c/v1/"])
def test_an_address_may_be_the_base_url_that_other_clients_want(url: str) -> None:
    with httpx2.Client(**Endpoint(url, None, None).http_options(1.0)) as client:
        assert str(client.build_request("GET", "/v1/models").url) == "https://c/v1/models"


def test_a_proxy_that_will_not_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "foo://bar:1")
    for kind in (AsyncClient, Client):
        with pytest.raises(ConfigError, match="cannot be asked"):
            kind("https://c.example")


def test_proxies_are_for_other_machines_only() -> None:
    assert not Endpoint("http://127.0.0.1:1", None, None).trust_env
    assert Endpoint("https://c.example", None, None).trust_env


def test_an_authority_that_the_environment_names_counts_on_this_machine_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, _ = load_or_create_certificate(tmp_path, "localhost", clock=ManualClock())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = Endpoint("https://localhost:1", None, None).verify
    assert isinstance(context, ssl.SSLContext) and context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509"] == 1
    assert Endpoint("http://localhost:1", None, None).verify is True


@pytest.mark.parametrize("url", ["https://localhost:1", "https://c.example"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_authorities_that_cannot_be_read_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, content: bytes | None
) -> None:
    named = tmp_path / "authorities.pem"
    if content is not None:
        named.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    for kind in (AsyncClient, Client):
        with pytest.raises(ConfigError, match="that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read"):
            kind(url)


@pytest.mark.parametrize("url", ["https://a..b", "https://" + "a" * 64, "https://:1", "https://c:99999"])
def test_an_address_that_leads_nowhere_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url)


@pytest.mark.parametrize("kind", [httpx2.Client, httpx2.AsyncClient])
@pytest.mark.parametrize(("seconds", "to_connect"), [(120.0, 10.0), (3.0, 3.0)])
def test_either_kind_of_client_is_made_alike(kind: type[Any], seconds: float, to_connect: float) -> None:
    made = kind(**Endpoint("https://c.example", "k", None).http_options(seconds))
    assert (made.base_url, made.headers["Authorization"]) == (httpx2.URL("https://c.example"), "Bearer k")
    assert made.timeout == httpx2.Timeout(seconds, connect=to_connect)
    assert made.trust_env


def test_a_pinned_certificate_is_the_only_one_that_counts() -> None:
    pinned = Endpoint("https://c.example", None, "ab" * 32).http_options(1.0)
    assert isinstance(pinned["verify"], ssl.SSLContext)
    assert Endpoint("https://c.example", None, None).http_options(1.0)["verify"] is True


@pytest.mark.parametrize(
    ("cause", "expected", "says"),
    [
        (httpx2.ConnectTimeout("x"), Unreachable, "nobody answers at https://c"),
        (httpx2.ConnectError("refused"), Unreachable, "is the coordinator running"),
        (httpx2.ReadTimeout("x"), RequestTimeout, "no answer from https://c in time"),
        (httpx2.RemoteProtocolError("x"), LinkClosed, "the connection to https://c broke off"),
        (httpx2.ReadError("x"), LinkClosed, "the connection to https://c broke off"),
        (httpx2.InvalidURL("x"), Unreachable, "https://c: x"),
    ],
)
def test_failures_of_the_connection_have_our_names(cause: Exception, expected: type[Exception], says: str) -> None:
    with pytest.raises(expected, match=says), translated("https://c"):
        raise cause


def test_a_certificate_nobody_vouches_for_asks_for_a_fingerprint() -> None:
    error = httpx2.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    with pytest.raises(Unreachable, match="give its fingerprint"), translated("https://c"):
        raise error


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("WRONG_VERSION_NUMBER", "https://c answers, but not with TLS: .* by http://"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "https://c answers, but no TLS connection comes about: TLSV1_ALERT"),
    ],
)
def test_who_answers_without_the_tls_that_is_meant_is_not_nobody(reason: str, says: str) -> None:
    error, cause = httpx2.ConnectError("x"), ssl.SSLError(1, f"[SSL: {reason}]")
    cause.reason = reason
    error.__cause__ = cause
    with pytest.raises(Unreachable, match=says), translated("https://c"):
        raise error


async def test_plain_http_is_said_to_be_what_answers() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncClient(url) as client:
            with pytest.raises(Unreachable, match="answers, but not with TLS"):
                await client.models()


def test_who_hangs_up_on_plain_http_may_speak_tls() -> None:
    silence = httpx2.RemoteProtocolError("Server disconnected without sending a response.")
    with pytest.raises(LinkClosed, match="if it speaks TLS, use https://"), translated("http://127.0.0.1:1"):
        raise silence
    with pytest.raises(LinkClosed, match="broke off$"), translated("https://c"):
        raise silence


def test_the_only_model_is_the_default() -> None:
    assert only_model([Model("a", {})]) == "a"
    with pytest.raises(NoTarget, match="no target at the moment"):
        only_model([])
    with pytest.raises(UnknownModel, match="name one: a, b"):
        only_model([Model("a", {}), Model("b", {})])
