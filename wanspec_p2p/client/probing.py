"""How long an OpenAI-compatible endpoint takes to the first token and from token to token, asked again and again.

Every answer is asked for over a connection of its own, without cookies, and begins with other words, so that neither a
connection that is still open nor a cached prompt makes an endpoint look idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2
import msgspec

from wanspec_p2p import __version__
from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.client.series import TIMEOUT, Measurement
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import ConfigError, WanspecError

__all__ = ["Failure", "measure", "probe", "warm_up"]

EVENTS_PER_TOKEN = 4
"""An answer of more events than that, for each token that was asked for, does not mean to end."""
WARMING_SECONDS = 5.0
STREAM = b"""HTTP/1.1 200 OK\r
Content-Type: text/event-stream\r
Connection: close\r
\r
data: {"choices": [{"delta": {"content": "a"}}]}

data: {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}

data: [DONE]

"""


class Failure(WanspecError):
    """Why an answer was not measured: one of a few words, so that failures can be counted by kind."""


class _Delta(msgspec.Struct):
    """Thoughts have two names: `reasoning` is that of newer vLLM, of Ollama and of OpenRouter."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def holds_text(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None


class _Answer:
    """Reads one stream; times are the reader's, in seconds."""

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.first: float | None = None
        self.last = 0.0
        self.pieces = self.events = self.counted = 0
        self.finished = False  # all tokens are there
        self.ended = False  # nothing comes any more

    def feed(self, data: str, now: float, limit: int) -> None:
        """Raises Failure for an event that ends the measurement."""
        self.events += 1
        if self.events > limit:
            raise Failure("endless")
        if data == "[DONE]":
            self.finished = self.ended = True
            return
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Failure("not the API") from error
        if chunk.error is not None:
            raise Failure("error in stream")
        if chunk.usage is not None:
            self.counted = chunk.usage.completion_tokens or 0
        for choice in (chunk.choices or ())[:1]:
            self.finished |= choice.finish_reason is not None
            if choice.delta is not None and choice.delta.holds_text:
                self.first = now if self.first is None else self.first
                self.last = now
                self.pieces += 1

    def measured(self, endpoint: str, at: float, most: int) -> Measurement:
        if self.first is None:
            raise Failure("no token")
        if not self.finished:
            raise Failure("broke off")
        # Several tokens may come in one piece; who counts them for us is believed as far as it can be true.
        tokens = self.counted if self.pieces <= self.counted <= most else self.pieces
        per_token = (self.last - self.first) / (tokens - 1) if self.pieces > 1 else None
        return Measurement(endpoint, at, self.first - self.asked, per_token, tokens)

    def given_up(self, endpoint: str, at: float, limit: float, most: int) -> Measurement:
        """The first token took its time, even if the rest did not come; or at least as long as it had. An answer of
        which only the end of the stream did not come is whole.
        """
        if self.finished and self.first is not None:
            return self.measured(endpoint, at, most)
        first = limit if self.first is None else self.first - self.asked
        return Measurement(endpoint, at, first, failure=TIMEOUT)


async def measure(
    http: httpx2.AsyncClient, endpoint: ProbedEndpoint, plan: ProbePlan, *, clock: Clock, prompt: str
) -> Measurement:
    """Ask for one answer. Whatever the endpoint does, this returns within the plan's time, with a failure in words."""
    at, answer = clock.wall(), _Answer(clock.monotonic())
    try:
        async with asyncio.timeout(plan.timeout):
            await _ask(http, endpoint, plan, clock, prompt, answer)
        return answer.measured(endpoint.name, at, plan.max_tokens)
    except Failure as failure:
        return Measurement(endpoint.name, at, failure=str(failure))
    except (TimeoutError, httpx2.TimeoutException):
        return answer.given_up(endpoint.name, at, plan.timeout, plan.max_tokens)
    except (httpx2.ConnectError, httpx2.ProxyError, OSError):
        return Measurement(endpoint.name, at, failure="unreachable")
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL):
        return Measurement(endpoint.name, at, failure="broke off")


async def _ask(
    http: httpx2.AsyncClient, endpoint: ProbedEndpoint, plan: ProbePlan, clock: Clock, prompt: str, answer: _Answer
) -> None:
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": plan.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    limit = EVENTS_PER_TOKEN * plan.max_tokens + 16
    async with http.stream("POST", f"{endpoint.base_url.rstrip('/')}/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise Failure(f"http {response.status_code}")
        if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "text/event-stream":
            raise Failure("not a stream")
        response.encoding = "utf-8-sig"  # of every event stream, whatever `charset` says; it may begin with a BOM
        async for event in httpx2.EventSource(response):
            if event.data:  # without, it is none: https://html.spec.whatwg.org/multipage/server-sent-events.html
                answer.feed(event.data, clock.monotonic(), limit)
            if answer.ended:  # a service may keep the body open
                return


async def warm_up(clock: Clock) -> None:
    """Measure a stream of our own on loopback, and begin TLS with what does not speak it.

    So what a process loads and prepares at its first request, some 40 ms, is in no time that counts. No endpoint is
    asked; where loopback cannot be listened on, nothing happens.
    """
    answering: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.create_task(_stream(reader, writer)))

    with contextlib.suppress(OSError):
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for scheme in ("http", "https"):
                own = ProbedEndpoint("warm-up", "here", f"{scheme}://127.0.0.1:{port}/v1", "none")
                plan = ProbePlan((own,), max_tokens=2, timeout=WARMING_SECONDS)
                async with _client(own, None, plan.timeout, ssl.create_default_context()) as http:
                    await measure(http, own, plan, clock=clock, prompt=plan.prompt)
            if answering:
                await asyncio.wait(answering, timeout=WARMING_SECONDS)


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whatever is said, the answer is STREAM."""
    with contextlib.suppress(OSError):
        if await reader.read(1):
            writer.write(STREAM)
        await reader.read()  # until the other side closes
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def probe(
    plan: ProbePlan,
    keys: Mapping[str, str],
    keep: Callable[[Measurement], None],
    *,
    seconds: float,
    interval: float,
    concurrency: int,
    clock: Clock,
    rng: random.Random,
) -> None:
    """Measure every endpoint of `plan` at once and then every `interval` seconds, for `seconds`.

    Args:
        keys: by the endpoint's name.
        keep: called with each measurement, in the order in which they end; what it raises ends the probe.
        concurrency: answers under way at the same time. An endpoint whose answer takes longer than `interval` is asked
            again at the next time that is due, never twice at once.
        rng: makes prompts differ.
    """
    gate, begin = asyncio.Semaphore(concurrency), clock.monotonic()
    context = ssl.create_default_context()

    async def follow(endpoint: ProbedEndpoint, http: httpx2.AsyncClient) -> None:
        due = 0.0
        while due < seconds:
            async with gate:
                prompt = f"[{rng.getrandbits(32):08x}] {plan.prompt}"
                keep(await measure(http, endpoint, plan, clock=clock, prompt=prompt))
            passed = clock.monotonic() - begin
            due = (math.floor(passed / interval) + 1) * interval
            if due < seconds:
                await asyncio.sleep(due - passed)

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(_client(endpoint, keys.get(endpoint.name), plan.timeout, context))
            for endpoint in plan.endpoint
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint, http in zip(plan.endpoint, clients, strict=True):
                    group.create_task(follow(endpoint, http))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None


def _client(endpoint: ProbedEndpoint, key: str | None, timeout: float, context: ssl.SSLContext) -> httpx2.AsyncClient:
    """Follows no redirect: it would lead away with the key. Compression would hold tokens back; a cookie would lead
    every request to the machine that the first one came to.
    """
    headers = {"User-Agent": f"wanspec-p2p/{__version__}", "Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        return httpx2.AsyncClient(
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            verify=context,
            timeout=timeout,
            trust_env=not endpoint.loopback,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
    except (ValueError, httpx2.InvalidURL) as error:  # a proxy variable that is none
        raise ConfigError("the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used") from error
    except ImportError as error:
        raise ConfigError(
            "HTTPS_PROXY or ALL_PROXY names a SOCKS proxy: install the package socksio for it, or name another proxy"
        ) from error
