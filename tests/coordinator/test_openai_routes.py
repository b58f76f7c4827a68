from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from coordinator.openai_responses import Reply
from coordinator.openai_schema import seed_bytes
from coordinator.sqlite_ledger import SqliteLedger
from tests.support.fake_target import SERVED, answer_ids, until
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, TokenLogprob, Tokens
from wanspec_p2p.types import PeerId, Sampling

CHAT = {"model": "big", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
NODE = PeerId("n" * 32)


def expected_ids(seed: bytes, count: int) -> list[int]:
    return answer_ids(Generate("r", seed, Sampling()), count)


def chunks_of(text: str) -> list[Any]:
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


async def test_chat_completion_is_the_targets_answer(rig: Any) -> None:
    target = await rig.target()
    target.script.winner = NODE
    response = await rig.http.post("/v1/chat/completions", json=CHAT | {"seed": 7})
    body = response.json()
    ids = expected_ids(seed_bytes(7), 5)
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-" + response.headers["x-request-id"]
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "".join(f"t{i} " for i in ids)}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["system_fingerprint"] == "fp_" + "f" * 16
    assert body["wanspec"] == {
        "request": response.headers["x-request-id"],
        "position": 0,
        "token_ids": ids,
        "origin": [None, NODE, None, NODE, None],
        "seed": seed_bytes(7).hex(),
        "fingerprint": "f" * 64,
    }
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "completion_tokens_details": {"accepted_prediction_tokens": 2, "rejected_prediction_tokens": 4},
    }
    assert body["metrics"]["speculative_decoding"]["mean_acceptance_length"] == pytest.approx(5 / 3)
    assert body["metrics"]["wanspec"]["won_by_peer"] == {NODE: 2}


async def test_the_request_reaches_the_target_as_it_was_asked(rig: Any) -> None:
    target = await rig.target()
    extension = {"privacy": "private", "network": False}
    await rig.http.post("/v1/chat/completions", json=CHAT | {"stop": "x", "temperature": 0, "wanspec": extension})
    (generate,) = target.generates
    assert (generate.stop, generate.sampling.temperature) == (("x",), 0.0)
    assert (generate.privacy.value, generate.network) == ("private", False)


async def test_a_stream_carries_every_token_once_and_ends_with_done(rig: Any) -> None:
    await rig.target()
    body = CHAT | {"seed": 7, "stream": True, "stream_options": {"include_usage": True}}
    response = await rig.http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = chunks_of(response.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [id for chunk in chunks for id in chunk["wanspec"]["token_ids"]] == expected_ids(seed_bytes(7), 5)
    assert [chunk["wanspec"]["position"] for chunk in chunks] == [0, 0, 2, 4, 5, 5]
    finish, usage = chunks[-2:]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert finish["wanspec"]["seed"] == seed_bytes(7).hex()
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-" + response.headers["x-request-id"]}


async def test_without_include_usage_no_usage_chunk_is_sent(rig: Any) -> None:
    await rig.target()
    response = await rig.http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert all(chunk == "[DONE]" or "usage" not in chunk for chunk in chunks_of(response.text))


async def test_a_completion_streams_text(rig: Any) -> None:
    await rig.target()
    response = await rig.http.post("/v1/completions", json={"model": "big", "prompt": "hi", "stream": True})
    *chunks, _ = chunks_of(response.text)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).startswith("t0 t2 ")


async def test_logprobs_come_token_by_token(rig: Any) -> None:
    await rig.target()
    asked = CHAT | {"logprobs": True, "top_logprobs": 2}
    chat = (await rig.http.post("/v1/chat/completions", json=asked)).json()
    entries = chat["choices"][0]["logprobs"]["content"]
    assert len(entries) == 5
    assert entries[0]["bytes"] == list(entries[0]["token"].encode())
    assert len(entries[0]["top_logprobs"]) == 2
    text = {"model": "big", "prompt": [1, 2], "max_tokens": 2, "logprobs": 1}
    columns = (await rig.http.post("/v1/completions", json=text)).json()["choices"][0]["logprobs"]
    assert columns["token_logprobs"] == [-0.5, -0.5]
    assert columns["text_offset"] == [0, len(columns["tokens"][0])]


async def test_a_given_seed_repeats_the_answer(rig: Any) -> None:
    await rig.target()
    first = (await rig.http.post("/v1/chat/completions", json=CHAT)).json()
    again = CHAT | {"wanspec": {"seed": first["wanspec"]["seed"]}}
    second = (await rig.http.post("/v1/chat/completions", json=again)).json()
    assert second["wanspec"]["token_ids"] == first["wanspec"]["token_ids"]


async def test_an_answer_can_be_taken_up_again(rig: Any) -> None:
    await rig.target()
    ids = expected_ids(seed_bytes(7), 5)
    extension = {"seed": seed_bytes(7).hex(), "committed": ids[:2]}
    rest = (await rig.http.post("/v1/chat/completions", json=CHAT | {"wanspec": extension})).json()
    assert rest["wanspec"]["position"] == 2
    assert rest["wanspec"]["token_ids"] == ids[2:]


async def test_an_echo_stands_before_the_answer(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 0
    body = {"model": "big", "prompt": [7, 8], "echo": True, "logprobs": 0, "max_tokens": 2, "seed": 7}
    asking = asyncio.create_task(rig.http.post("/v1/completions", json=body))
    await target.asked.wait()
    (generate,) = target.generates
    assert generate.echo
    entries = (TokenLogprob(7, "x", None), TokenLogprob(8, "y", -1.0))
    await target.send(Tokens(generate.request, 0, (7, 8), "xy", (None, None), entries, echo=True))
    target.script.go_on.set()
    answer = (await asking).json()
    ids = expected_ids(seed_bytes(7), 2)
    assert answer["choices"][0]["text"] == "xy" + "".join(f"t{i} " for i in ids)
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.0, -0.5, -0.5]
    assert answer["wanspec"]["token_ids"] == ids


async def test_several_prompts_are_several_choices(rig: Any) -> None:
    target = await rig.target()
    body = {"model": "big", "prompt": ["a", [1, 2]], "max_tokens": 3, "seed": 7}
    response = await rig.http.post("/v1/completions", json=body)
    choices = response.json()["choices"]
    text = "".join(f"t{i} " for i in expected_ids(seed_bytes(7), 3))
    assert [(choice["index"], choice["text"]) for choice in choices] == [(0, text), (1, text)]
    assert sorted((generate.prompt or "", generate.prompt_ids) for generate in target.generates) == [
        ("", (1, 2)),
        ("a", ()),
    ]
    assert response.json()["usage"]["completion_tokens"] == 6
    assert 'wanspec_requests_total{outcome="ok"} 2.0' in rig.executor.metrics.render().decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_our_own_is_not_counted_as_hung_up(
    rig: Any, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    target = await rig.target()
    monkeypatch.setattr(Reply, "closing" if stream else "whole", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await rig.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert target.generates
    counted = rig.executor.metrics.render().decode()
    assert 'wanspec_requests_total{outcome="failed"} 1.0' in counted
    assert 'outcome="cancelled"' not in counted


async def test_one_of_several_prompts_that_fails_ends_the_others(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 0
    body = {"model": "big", "prompt": ["a", "b"], "max_tokens": 3}
    asking = asyncio.create_task(rig.http.post("/v1/completions", json=body))
    await until(lambda: len(target.generates) == 2)
    await target.send(Failed(target.generates[1].request, "context_length_exceeded", "too long"))
    assert (await asking).json()["error"]["code"] == "context_length_exceeded"
    await target.cancelled.wait()
    assert [cancel.request for cancel in target.cancels] == [target.generates[0].request]
    assert len(rig.executor.answers) == 0


async def test_prompts_that_do_not_all_find_a_place_find_none(rig: Any) -> None:
    target = await rig.target(slots=1, queue=0)
    response = await rig.http.post("/v1/completions", json={"model": "big", "prompt": ["a", "b"]})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert len(rig.executor.answers) == 0
    target.script.tokens = 1
    await rig.http.post("/v1/completions", json={"model": "big", "prompt": "c"})
    assert [asked.prompt for asked in target.generates] == ["c"], "it never hears of the others"


async def test_a_target_whose_queue_is_full_is_a_503_with_retry_after(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 0
    asking = asyncio.create_task(rig.http.post("/v1/chat/completions", json=CHAT))
    await target.asked.wait()
    await target.send(Failed(target.generates[0].request, "overloaded", "the queue is full"))
    response = await asking
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_models_are_described(rig: Any) -> None:
    await rig.target()
    listed = (await rig.http.get("/v1/models")).json()["data"]
    single = (await rig.http.get("/v1/models/big")).json()
    assert listed == [single]
    assert (single["id"], single["context"], single["dtype"], single["exactness"]) == (
        "big",
        1000,
        "bfloat16",
        "bitwise",
    )
    assert single["fingerprint"] == SERVED.fingerprint


async def test_an_unknown_model_is_404_and_names_those_there_are(rig: Any) -> None:
    await rig.target()
    response = await rig.http.post("/v1/chat/completions", json=CHAT | {"model": "nope"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "big" in response.json()["error"]["message"]
    single = await rig.http.get("/v1/models/nope")
    assert single.status_code == 404 and single.json()["error"]["code"] == "model_not_found"
    assert single.json()["error"]["message"].endswith("there are: big")


async def test_where_no_model_is_served_it_says_why(rig: Any) -> None:
    response = await rig.http.get("/v1/models/nope")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert response.json()["error"]["message"].endswith("no target is connected")


async def test_no_target_is_503_with_retry_after(rig: Any) -> None:
    response = await rig.http.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "no_target"
    assert "x-request-id" in response.headers


async def test_a_full_queue_is_503_overloaded(rig: Any) -> None:
    target = await rig.target(slots=1, queue=0)
    target.script.pause_after = 0
    first = asyncio.create_task(rig.http.post("/v1/chat/completions", json=CHAT))
    await target.asked.wait()
    second = await rig.http.post("/v1/chat/completions", json=CHAT)
    assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
    assert second.headers["retry-after"] == "1"
    target.script.go_on.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_value", None),
        (b"[]", 400, "invalid_value", None),
        (b"{}", 400, "invalid_value", "model"),
        (msgspec.json.encode(CHAT | {"tools": [{}]}), 400, "unsupported_parameter", "tools"),
        (msgspec.json.encode(CHAT | {"n": 2}), 400, "unsupported_parameter", "n"),
        (msgspec.json.encode(CHAT | {"temperature": "hot"}), 400, "invalid_value", "temperature"),
        (b'"' + b"x" * (5 << 20) + b'"', 400, "invalid_value", None),
    ],
    ids=["not json", "no object", "no model", "tools", "n", "type", "too long"],
)
async def test_bad_requests_name_the_field(rig: Any, body: bytes, status: int, code: str, param: str | None) -> None:
    response = await rig.http.post("/v1/chat/completions", content=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert "\n" not in error["message"]


async def test_a_target_that_fails_is_quoted(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 0
    asking = asyncio.create_task(rig.http.post("/v1/chat/completions", json=CHAT))
    await target.asked.wait()
    await target.send(Failed(target.generates[0].request, "context_length_exceeded", "1001 tokens, room for 1000"))
    response = await asking
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "1001 tokens, room for 1000"


async def test_a_key_is_needed_from_the_first_one_on(rig: Any) -> None:
    await rig.target()
    assert (await rig.http.get("/v1/models", headers={"authorization": "Bearer DUMMY"})).status_code == 200
    ledger: SqliteLedger = rig.executor.ledger
    await ledger.add_api_key("mine", "wsk-right", now=0.0)
    for headers in ({}, {"authorization": "Bearer wsk-wrong"}, {"authorization": "Basic wsk-right"}):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/api/state")):
            response = await rig.http.request(method, path, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    right = {"authorization": "Bearer wsk-right"}
    assert (await rig.http.get("/v1/models", headers=right)).status_code == 200
    assert (await rig.http.get("/health")).status_code == 200


async def test_a_lost_target_ends_a_stream_with_an_error_and_no_done(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 2
    asking = asyncio.create_task(rig.http.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    await target.asked.wait()
    await target.link.close()
    *chunks, last = chunks_of((await asking).text)
    assert last["error"]["code"] == "target_lost"
    assert "[DONE]" not in chunks


async def test_an_answer_goes_on_at_another_target_of_the_same_fingerprint(rig: Any) -> None:
    first, second = await rig.target(), await rig.target()
    for target in (first, second):
        target.script.pause_after = 2
    asking = asyncio.create_task(rig.http.post("/v1/chat/completions", json=CHAT | {"seed": 7}))
    await until(lambda: first.generates or second.generates)
    lost, heir = (first, second) if first.generates else (second, first)
    await lost.said(2)
    heir.script.pause_after = None
    await lost.link.close()
    body = (await asking).json()
    assert body["wanspec"]["token_ids"] == expected_ids(seed_bytes(7), 5)
    assert heir.generates[0].committed == tuple(expected_ids(seed_bytes(7), 2))
    assert body["usage"]["completion_tokens"] == 5


async def test_hanging_up_cancels_at_the_target_at_once(rig: Any) -> None:
    target = await rig.target()
    target.script.pause_after = 2
    hung_up = asyncio.Event()
    body = msgspec.json.encode(CHAT | {"stream": True})
    sent: list[Any] = []
    sent_body: list[bool] = []

    async def receive() -> dict[str, Any]:
        if not sent_body:
            sent_body.append(True)
            return {"type": "http.request", "body": body, "more_body": False}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "headers": [(b"host", b"127.0.0.1")],
        "asgi": {"version": "3.0"},
    }
    running = asyncio.create_task(rig.app(scope, receive, send))
    await until(lambda: len(sent) >= 3)
    hung_up.set()
    await running
    await target.cancelled.wait()
    assert target.cancels[0].request == target.generates[0].request
    assert len(rig.executor.answers) == 0
