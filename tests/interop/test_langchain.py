"""langchain-openai 1.7: invoke, stream, logprobs, a refusal, hanging up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import Services

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


def test_a_chat_model_of_a_chain(report_of: Callable[[str], Any], services: Services) -> None:
    report = report_of("langchain")
    assert report["plain"] and report["streamed"] == report["plain"]
    assert report["usage"]["output_tokens"] == report["streamed_usage"]["output_tokens"] == 12
    assert report["logprobs"] == 12
    assert report["refused"] == [400, "unsupported_parameter", "tools"]
    assert report["cancelled"] == {"hung_up": True}
    nothing_is_left(services)
