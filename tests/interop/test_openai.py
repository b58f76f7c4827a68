"""The openai package, 3.54: sync, async, streaming helper, logprobs, typed errors, hanging up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import MODEL, Services

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


def test_everything_the_package_offers_for_text(report_of: Callable[[str], Any], services: Services) -> None:
    report = report_of("openai")
    assert report["models"] == [report["model"]] == [MODEL]
    plain, streamed = report["plain"], report["streamed"]
    _same_answer(report)
    assert plain["finish"] == streamed["finish"] == "length"
    assert streamed["role"] == "assistant"
    assert plain["id"] == "chatcmpl-" + plain["request"]
    assert plain["fingerprint"].startswith("fp_")
    assert "acceptance_histogram_by_draft_length" in plain["metrics"]
    _usage(plain["usage"])
    _usage(streamed["usage"])
    assert streamed["others"] == []
    _scores(report["logprobs"])
    _completions(report["completions"])
    _refusals(report["refusals"])
    assert report["cancelled"] == {"timed_out": True}
    nothing_is_left(services)


def _same_answer(report: Any) -> None:
    plain = report["plain"]
    assert len(plain["token_ids"]) == 12
    assert report["streamed"]["token_ids"] == plain["token_ids"]
    assert {report[way]["text"] for way in ("streamed", "helper", "asynchronous")} == {plain["text"]}


def _usage(usage: Any) -> None:
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    details = usage["completion_tokens_details"]
    assert 0 <= details["accepted_prediction_tokens"] <= 12
    assert details["rejected_prediction_tokens"] >= 0


def _scores(logprobs: Any) -> None:
    assert logprobs["tops"] == [3] * 12
    assert logprobs["greedy"]
    assert logprobs["streamed"] == logprobs["tokens"]


def _completions(completions: Any) -> None:
    assert completions["echo"] == "hi!" + completions["text"]
    assert completions["streamed"] == completions["text"]
    assert completions["token_logprobs"][0] is None and len(completions["token_logprobs"]) == 7
    assert completions["top_logprobs"][0] is None
    for chosen, top in zip(completions["token_logprobs"][3:], completions["top_logprobs"][3:], strict=True):
        assert chosen == max(top.values()), "greedy"
    assert [index for index, _ in completions["several"]] == [0, 1]


def _refusals(refusals: Any) -> None:
    bad = ["BadRequestError", 400]
    unsupported, kind = [*bad, "unsupported_parameter"], "invalid_request_error"
    assert refusals == {
        "tools": [*unsupported, "tools", kind],
        "response_format": [*unsupported, "response_format", kind],
        "n": [*unsupported, "n", kind],
        "temperature": [*bad, "invalid_value", "temperature", kind],
        "model": ["NotFoundError", 404, "model_not_found", "model", kind],
        "image": [*unsupported, "messages[0].content[0].type", kind],
        "key": ["AuthenticationError", 401, "invalid_api_key", None, "authentication_error"],
        "long": [*bad, "context_length_exceeded", "messages", kind],
        "responses": "NotFoundError",
    }
