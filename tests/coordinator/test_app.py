from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.app import READY_SECONDS
from coordinator.ledger import LedgerError
from tests.support.fake_target import drafter, until
from wanspec_p2p.protocol.target_to_coordinator import TargetDrain


async def test_alive_is_not_ready(rig: Any) -> None:
    assert (await rig.http.get("/health")).json() == {"status": "alive"}
    waiting = await rig.http.get("/ready")
    assert (waiting.status_code, waiting.json()["reason"]) == (503, "no target is connected")
    target = await rig.target()
    assert (await rig.http.get("/ready")).status_code == 200
    await target.send(TargetDrain("bye"))
    await until(lambda: [t.state.value for t in rig.executor.registry.targets.values()] == ["draining"])
    assert (await rig.http.get("/ready")).status_code == 503


async def test_a_ledger_that_cannot_be_written_is_not_ready(rig: Any) -> None:
    await rig.target()
    await rig.executor.ledger.close()
    response = await rig.http.get("/ready")
    assert (response.status_code, response.json()["reason"]) == (503, "the ledger cannot be written")
    keyed = await rig.http.get("/v1/models")
    assert (keyed.status_code, keyed.json()["error"]["code"]) == (503, "internal_error")


async def test_however_many_ask_the_ledger_is_written_once_in_a_while(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.target()
    outcomes: list[Exception | None] = [None, LedgerError("full"), None]
    written: list[Exception | None] = []

    async def check_writable() -> None:
        await asyncio.sleep(0)
        written.append(outcomes[len(written)])
        if written[-1] is not None:
            raise written[-1]

    monkeypatch.setattr(rig.executor.ledger, "check_writable", check_writable)
    for number, status in enumerate((200, 503, 200), 1):
        responses = await asyncio.gather(*(rig.http.get("/ready") for _ in range(5)))
        assert [response.status_code for response in responses] == [status] * 5
        assert len(written) == number
        rig.clock.advance(READY_SECONDS)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/responses", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/wanspec/node", 404, "not_found"),
    ],
)
async def test_other_paths_answer_in_the_same_form(rig: Any, method: str, path: str, status: int, code: str) -> None:
    response = await rig.http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_a_base_url_without_v1_is_told_so(rig: Any) -> None:
    error = (await rig.http.post("/chat/completions", json={})).json()["error"]
    assert error["message"].startswith("there is nothing at /chat/completions: the OpenAI API is under /v1")
    assert len((await rig.http.get("/" + "x" * 4000)).json()["error"]["message"]) < 300


async def test_what_there_is_instead_is_told(rig: Any) -> None:
    twice = (await rig.http.get("/v1/v1/models")).json()["error"]["message"]
    assert twice == "there is nothing at /v1/v1/models: the base URL has /v1 twice"
    absent = (await rig.http.post("/v1/embeddings", json={})).json()["error"]["message"]
    assert "/v1/chat/completions" in absent and "base URL" not in absent


async def test_nobody_is_led_elsewhere_by_a_slash(rig: Any) -> None:
    """Behind a proxy that ends TLS the coordinator would name itself with plain HTTP."""
    for path in ("/v1/chat/completions/", "/v1/models/", "/health/"):
        assert (await rig.http.request("POST" if "chat" in path else "GET", path)).status_code == 404


async def test_state_shows_who_is_here_and_why_nobody_matches(rig: Any) -> None:
    node = await rig.node(models=(drafter(tokenizer="b" * 64),), owner="us")
    target = await rig.target()
    state = (await rig.http.get("/api/state")).json()
    assert (state["nodes"][0]["id"], state["nodes"][0]["owner"]) == (node.peer_id, "us")
    assert "tokenizer mismatch" in state["nodes"][0]["unmatched"]
    assert state["targets"][0]["id"] == target.peer_id
    assert state["targets"][0]["model"]["name"] == "big"
    assert (state["leases"], state["answers"], state["totals"], state["acceptance"]) == ([], 0, {}, [])
    assert "secret" not in str(state)
