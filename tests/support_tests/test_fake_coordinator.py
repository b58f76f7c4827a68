from __future__ import annotations

import json

import httpx2

from tests.support.fake_coordinator import SCRIPT, FakeCoordinator, serving


def events(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.split("\n\n") if line]


def test_the_stream_carries_the_script_and_ends_with_done() -> None:
    fake = FakeCoordinator()
    with serving(fake) as url:
        response = httpx2.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": []}, trust_env=False)
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in parsed[: len(SCRIPT)]] == [c.text for c in SCRIPT]
    positions = [chunk["wanspec"]["position"] for chunk in parsed[: len(SCRIPT)]]
    assert positions == [sum(len(c.ids) for c in SCRIPT[:i]) for i in range(len(SCRIPT))]


def test_its_figures_fit_its_script() -> None:
    fake = FakeCoordinator()
    metrics = fake.metrics()
    assert metrics["rounds"] == len(SCRIPT)
    assert sum(metrics["won_by_peer"].values()) == metrics["accepted"] == metrics["accepted_per_round"] * 3
    assert len(fake.ids) == len(fake.origins) and "".join(c.text for c in SCRIPT) == fake.text


def test_it_stops_when_the_block_ends() -> None:
    with serving(FakeCoordinator()) as url:
        assert httpx2.get(f"{url}/v1/models", trust_env=False).status_code == 200
    try:
        httpx2.get(f"{url}/v1/models", trust_env=False)
    except httpx2.ConnectError:
        return
    raise AssertionError("the port is still open")
