from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
import pytest

from tests.support.fake_openai import FakeOpenAI, event, serving
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.client import probing
from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.client.probing import measure, probe, warm_up
from wanspec_p2p.client.series import Measurement
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import ConfigError

ENDPOINT = ProbedEndpoint("a", "west", "http://127.0.0.1:9/v1", "big")
PLAN = ProbePlan((ENDPOINT,), max_tokens=8, timeout=20.0)
DONE = "data: [DONE]\n\n"
Step = str | float
"""What a stream does next: says something, or lets seconds pass."""


class Script(httpx2.AsyncByteStream):
    def __init__(self, clock: ManualClock, steps: list[Step]) -> None:
        self._clock, self._steps = clock, steps

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self._steps:
            if isinstance(step, float):
                self._clock.advance(step)
            else:
                yield step.encode()


async def played(*steps: Step, kind: str = "text/event-stream", status: int = 200) -> Measurement:
    clock = ManualClock(1000.0)

    def answer(request: httpx2.Request) -> httpx2.Response:
        clock.advance(0.25)  # the way there
        return httpx2.Response(status, headers={"Content-Type": kind}, stream=Script(clock, list(steps)))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        return await measure(http, ENDPOINT, PLAN, clock=clock, prompt="hello")


async def test_times_are_those_of_the_text() -> None:
    found = await played(
        event(""), 0.5, event("a"), 0.1, event("b"), 0.3, event("c"), 5.0, event(finish="stop"), 5.0, DONE
    )
    assert found == Measurement("a", 1000.0, 0.75, pytest.approx(0.2), 3)


async def test_tokens_that_come_together_are_counted_by_the_endpoint() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 7}
    found = await played(event("a b c"), 0.6, event("d e f g", finish="length"), event(usage=usage), DONE)
    assert (found.tokens, found.per_token) == (7, pytest.approx(0.1))


@pytest.mark.parametrize("claimed", [-5, 0, 1, 9, 10**6])
async def test_a_count_that_cannot_be_true_is_not_believed(claimed: int) -> None:
    found = await played(event("a"), 0.2, event("b", finish="stop"), event(usage={"completion_tokens": claimed}), DONE)
    assert (found.tokens, found.per_token) == (2, pytest.approx(0.2))


async def test_one_token_has_no_time_to_the_next() -> None:
    found = await played(event("a", finish="stop"), DONE)
    assert (found.first_token, found.per_token, found.tokens, found.failure) == (0.25, None, 1, None)


@pytest.mark.parametrize(
    "delta",
    [{"reasoning_content": "hm"}, {"content": None, "reasoning": "hm"}, {"reasoning": "hm", "reasoning_content": "hm"}],
)
async def test_thoughts_are_tokens_too(delta: dict[str, str | None]) -> None:
    thought = f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n"
    found = await played(thought, 0.5, event("a", finish="stop"), DONE)
    assert (found.first_token, found.tokens) == (0.25, 2)


@pytest.mark.parametrize(
    "aside",
    [
        "event: ping\ndata:\n\n",
        "data\n\n",
        ": a comment\n\n",
        "id: 7\n\n",
        'data: {"choices": null}\n\n',
        'data: {"choices": [], "usage": null}\n\n',
        'data: {"usage": {"completion_tokens": null}}\n\n',
        'data: {"choices": [{"delta": null}]}\n\n',
        'data: {"choices": [{"delta": {"content": null}, "finish_reason": null}]}\n\n',
    ],
)
async def test_what_a_stream_may_hold_beside_text_is_no_failure(aside: str) -> None:
    found = await played(aside, event("a"), aside, 0.2, event("b", finish="stop"), aside, DONE)
    assert found == Measurement("a", 1000.0, 0.25, pytest.approx(0.2), 2)


async def test_events_without_data_do_not_make_a_stream_endless() -> None:
    found = await played(*["event: ping\ndata:\n\n"] * 1000, event("a", finish="stop"), DONE)
    assert (found.failure, found.tokens) == (None, 1)


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/event-stream ; charset=utf-8"])
async def test_a_content_type_has_no_case(kind: str) -> None:
    assert (await played(event("a", finish="stop"), DONE, kind=kind)).failure is None


@pytest.mark.parametrize("charset", ["undefined", "utf-16", "idna", "base64"])
async def test_a_stream_is_utf_8_whatever_it_says(charset: str) -> None:
    kind = f"text/event-stream; charset={charset}"
    assert (await played(event("a", finish="stop"), DONE, kind=kind)).failure is None


async def test_a_stream_may_begin_with_a_byte_order_mark() -> None:
    assert (await played("\ufeff" + event("a"), event("b", finish="stop"), DONE)).tokens == 2


@pytest.mark.parametrize(
    ("steps", "failure"),
    [
        ([], "no token"),
        ([DONE], "no token"),
        ([event("a")], "broke off"),
        (["data: nonsense\n\n"], "not the API"),
        (['data: {"choices": 3}\n\n'], "not the API"),
        (['data: {"error": ' + "[" * 100_000 + "\n\n"], "not the API"),
        ([event("a"), 'data: {"error": {"message": "overloaded"}}\n\n'], "error in stream"),
        ([event("a")] * 1000, "endless"),
        (["data: " + "x" * 10_000_000], "broke off"),
    ],
)
async def test_a_stream_that_is_none_is_a_failure_in_a_word(steps: list[Step], failure: str) -> None:
    found = await played(*steps)
    assert found == Measurement("a", 1000.0, failure=failure)


async def test_what_is_not_a_stream_is_a_failure() -> None:
    assert (await played("{}", kind="application/json")).failure == "not a stream"
    assert (await played("no", status=503)).failure == "http 503"
    assert (await played("no", status=302)).failure == "http 302"


async def test_an_answer_that_never_comes_is_given_up() -> None:
    async def silent(request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    plan = msgspec.structs.replace(PLAN, timeout=0.01)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(silent)) as http:
        found = await measure(http, ENDPOINT, plan, clock=ManualClock(), prompt="hello")
    assert found == Measurement("a", ManualClock().wall(), 0.01, failure="timeout")  # it took no less


async def stuck_after(*said: str) -> Measurement:
    """Of a stream whose body is never closed, by a clock of which 0.75 s have passed at its begin."""
    clock = ManualClock(1000.0)

    class Stuck(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            clock.advance(0.75)
            for text in said:
                yield text.encode()
            await asyncio.Event().wait()

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Stuck())

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        return await measure(http, ENDPOINT, PLAN, clock=clock, prompt="hello")


@in_virtual_time
async def test_of_an_answer_that_is_given_up_the_first_token_came_when_it_came() -> None:
    assert await stuck_after(event("a")) == Measurement("a", 1000.0, 0.75, failure="timeout")


@in_virtual_time
async def test_an_answer_ends_with_its_last_event_though_the_body_stays_open() -> None:
    begin = LoopClock().monotonic()
    assert await stuck_after(event("a", finish="stop"), DONE) == Measurement("a", 1000.0, 0.75, None, 1)
    assert LoopClock().monotonic() == begin  # nothing was waited for


@in_virtual_time
async def test_an_answer_whose_tokens_are_all_there_has_not_timed_out() -> None:
    assert await stuck_after(event("a", finish="stop")) == Measurement("a", 1000.0, 0.75, None, 1)


@dataclass
class Kept:
    found: list[Measurement] = field(default_factory=list)

    async def probe(self, plan: ProbePlan, keys: dict[str, str] | None = None, seconds: float = 0.01) -> None:
        async with asyncio.timeout(30):
            await probe(
                plan,
                keys or {},
                self.found.append,
                seconds=seconds,
                interval=3600.0,
                concurrency=2,
                clock=SystemClock(),
                rng=random.Random(0),
            )


def endpoint(name: str, base_url: str) -> ProbedEndpoint:
    return ProbedEndpoint(name, "here", base_url, "big", synthetic=True)


async def test_injected_delays_are_measured_and_a_dead_endpoint_stops_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    kept = Kept()
    quick, slow, busy = FakeOpenAI(), FakeOpenAI(first=0.2, each=0.05), FakeOpenAI(status=429)
    with serving(quick) as one, serving(slow) as two, serving(busy) as three:
        urls = {"quick": one, "slow": two, "busy": three, "dead": f"http://127.0.0.1:{dead}/v1"}
        plan = ProbePlan(tuple(endpoint(name, url) for name, url in urls.items()), max_tokens=8)
        await kept.probe(plan)
    found = {measurement.endpoint: measurement for measurement in kept.found}
    assert len(kept.found) == len(found) == 4
    assert found["dead"].failure == "unreachable"
    assert found["busy"].failure == "http 429"
    assert found["quick"].failure is None and found["quick"].tokens == 5
    assert (found["slow"].first_token or 0) >= 0.19
    assert (found["slow"].per_token or 0) >= 0.045


async def test_each_request_is_one_an_openai_service_takes_and_begins_with_other_words() -> None:
    fakes = FakeOpenAI(key="sk-1"), FakeOpenAI()
    kept = Kept()
    with serving(fakes[0]) as one, serving(fakes[1]) as two:
        plan = ProbePlan((endpoint("a", one), endpoint("b", f"{two}/")), prompt="Hello.", max_tokens=8)
        await kept.probe(plan, {"a": "sk-1"})
    assert [measurement.failure for measurement in kept.found] == [None, None]
    (headers, body), (other_headers, other_body) = fakes[0].seen[0], fakes[1].seen[0]
    assert headers["authorization"] == "Bearer sk-1"
    assert "authorization" not in other_headers
    assert body["stream"] is True and body["model"] == "big" and body["max_tokens"] == 8
    prompts = [request["messages"][0]["content"] for request in (body, other_body)]
    assert prompts[0] != prompts[1] and all(prompt.endswith("] Hello.") for prompt in prompts)


async def test_no_cookie_leads_every_request_to_the_same_machine() -> None:
    found: list[Measurement] = []

    def keep(measurement: Measurement) -> None:
        found.append(measurement)
        if len(found) == 2:
            raise ConfigError("two are enough")

    fake = FakeOpenAI(headers={"Set-Cookie": "machine=seven; Path=/"})
    with serving(fake) as url, pytest.raises(ConfigError, match="two are enough"):
        await probe(
            ProbePlan((endpoint("a", url),)),
            {},
            keep,
            seconds=60.0,
            interval=0.001,
            concurrency=1,
            clock=SystemClock(),
            rng=random.Random(0),
        )
    assert [measurement.failure for measurement in found] == [None, None]
    assert ["cookie" in headers for headers, _ in fake.seen] == [False, False]


async def test_a_redirect_does_not_lead_the_key_away() -> None:
    elsewhere, kept = FakeOpenAI(), Kept()
    with serving(elsewhere) as there, serving(FakeOpenAI(redirect=f"{there}/chat/completions")) as here:
        await kept.probe(ProbePlan((endpoint("a", here),)), {"a": "sk-1"})
    assert kept.found[0].failure == "http 307"
    assert elsewhere.seen == []


async def test_what_an_endpoint_says_of_a_refused_key_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    with caplog.at_level(0), serving(FakeOpenAI(key="sk-right")) as url:
        await kept.probe(ProbePlan((endpoint("a", url),)), {"a": "sk-wrong"})
    assert kept.found[0].failure == "http 401"
    assert "sk-" not in repr(kept.found) + caplog.text


@pytest.mark.parametrize(
    ("proxy", "words"),
    [("socks5://127.0.0.1:9", "install the package socksio"), ("foo://me:secret@x", "cannot be used")],
)
async def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, proxy: str, words: str) -> None:
    monkeypatch.setattr(os, "environ", {"ALL_PROXY": proxy})
    monkeypatch.setitem(sys.modules, "socksio", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words) as caught:
        await Kept().probe(ProbePlan((endpoint("a", "https://host.invalid/v1"),)))
    assert "secret" not in str(caught.value)


WARMED = """
import asyncio, sys
from wanspec_p2p.client.probing import warm_up
from wanspec_p2p.clock import SystemClock
before = set(sys.modules)
asyncio.run(warm_up(SystemClock()))
print(*set(sys.modules) - before)
before = set(sys.modules)
asyncio.run(warm_up(SystemClock()))
print(*set(sys.modules) - before)
"""


def test_what_a_request_loads_is_loaded_by_the_first_of_our_own() -> None:
    command = [sys.executable, "-W", "error", "-c", WARMED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    first, second = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert {"anyio._backends._asyncio", "anyio.streams.tls", "h11"} <= set(first.split())
    assert second == ""


async def test_the_request_of_our_own_is_measured_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Measurement] = []

    async def measured(*args: Any, **kwargs: Any) -> Measurement:
        found.append(await measure(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(probing, "measure", measured)
    await warm_up(SystemClock())
    assert [(each.failure, each.tokens) for each in found] == [(None, 2), ("unreachable", 0)]


async def test_without_loopback_nothing_is_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*args: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(asyncio, "start_server", refused)
    await warm_up(SystemClock())


def took(seconds: Callable[[str], float], running: list[int], most: list[int]) -> object:
    async def measured(
        http: object, endpoint: ProbedEndpoint, plan: object, *, clock: LoopClock, prompt: str
    ) -> object:
        running[0] += 1
        most[0] = max(most[0], running[0])
        at = clock.wall()
        await asyncio.sleep(seconds(endpoint.name))
        running[0] -= 1
        return Measurement(endpoint.name, at, 1.0, 0.1, 8)

    return measured


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers that take a second, of endpoints called "slow" 25; returns the most that were under way at once."""
    most = [0]
    monkeypatch.setattr(probing, "measure", took(lambda name: 25.0 if name == "slow" else 1.0, [0], most))
    return most


async def run_virtually(names: list[str], concurrency: int, keep: Callable[[Measurement], None]) -> None:
    plan = ProbePlan(tuple(ProbedEndpoint(name, "r", "http://127.0.0.1:9/v1", "m") for name in names))
    await probe(
        plan,
        {},
        keep,
        seconds=60.0,
        interval=10.0,
        concurrency=concurrency,
        clock=LoopClock(),
        rng=random.Random(0),
    )


@in_virtual_time
async def test_every_endpoint_is_asked_at_once_and_at_every_interval(virtual: list[int]) -> None:
    found: list[Measurement] = []
    begin = LoopClock().wall()
    await run_virtually(["a", "slow"], 4, found.append)
    at = {name: [round(m.at - begin) for m in found if m.endpoint == name] for name in ("a", "slow")}
    assert at == {"a": [0, 10, 20, 30, 40, 50], "slow": [0, 30]}  # never twice at once


@in_virtual_time
async def test_no_more_answers_are_under_way_than_may_be(virtual: list[int]) -> None:
    found: list[Measurement] = []
    await run_virtually([f"e{number}" for number in range(20)], 3, found.append)
    assert virtual == [3]
    assert {m.endpoint for m in found} == {f"e{number}" for number in range(20)}


@in_virtual_time
async def test_a_series_that_cannot_be_kept_ends_the_probe_with_its_own_error(virtual: list[int]) -> None:
    def full(found: Measurement) -> None:
        raise ConfigError("no room")

    with pytest.raises(ConfigError, match="no room"):
        await run_virtually(["a", "b"], 4, full)
