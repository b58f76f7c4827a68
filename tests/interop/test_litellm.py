"""litellm 1.106, through two of its providers: plain, streaming, logprobs, text completions, errors, hanging up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import Services

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


def test_both_ways_to_a_compatible_service(report_of: Callable[[str], Any], services: Services) -> None:
    report = report_of("litellm")
    texts = {answer["text"] for way in ("plain", "streamed") for answer in report[way].values()}
    assert len(texts) == 1
    for answer in report["plain"].values():
        assert (answer["usage"]["completion_tokens"], answer["logprobs"]) == (12, 12)
        assert answer["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] >= 0
    assert {answer["completion_tokens"] for answer in report["streamed"].values()} == {12}
    assert report["text"]
    refused = report["refused"]
    assert refused["model"][:2] == ["NotFoundError", 404]
    assert refused["n"][:2] == ["BadRequestError", 400] and "n is not supported" in refused["n"][2]
    assert refused["key"][:2] == ["AuthenticationError", 401]
    assert report["cancelled"] == {"hung_up": True}
    nothing_is_left(services)
