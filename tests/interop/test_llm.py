"""The llm command, 0.36: a model by its address alone, one that is configured, usage, an error."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import MODEL, Services

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llm(program: Callable[[str, str], Path], run: Run, services: Services, tmp_path: Path) -> Run:
    """The command, with the model configured under the name `lent`."""
    command = program("llm", "llm")
    user = tmp_path / "llm"
    user.mkdir()
    entry = {"model_id": "lent", "model_name": MODEL, "api_base": f"{services.url}/v1", "api_key_name": "wanspec"}
    (user / "extra-openai-models.yaml").write_text(json.dumps([entry]))  # JSON is YAML
    (user / "keys.json").write_text(json.dumps({"wanspec": services.key}))
    return lambda *words: run(command, *words, LLM_USER_PATH=str(user))


def test_a_configured_model_answers_streamed_or_whole_and_says_what_it_used(llm: Run, services: Services) -> None:
    options = ("-m", "lent", "-o", "max_tokens", "12", "-o", "temperature", "0", "-o", "seed", "7")
    streamed = llm("prompt", "hi", *options, "-u")
    assert streamed.returncode == 0, streamed.stderr
    whole = llm("prompt", "hi", *options, "--no-stream")
    assert whole.stdout == streamed.stdout and whole.stdout.strip()
    assert "12 output" in streamed.stderr
    assert "accepted_prediction_tokens" in streamed.stderr
    nothing_is_left(services)


def test_an_address_alone_is_enough(llm: Run, services: Services) -> None:
    listed = llm("openai", "endpoint", f"{services.url}/v1", "--models", "--key", services.key)
    assert listed.returncode == 0, listed.stderr
    assert MODEL in listed.stdout


def test_a_refusal_is_shown(llm: Run) -> None:
    refused = llm("prompt", "hi", "-m", "lent", "-o", "temperature", "1.9", "-o", "max_tokens", "-1")
    assert refused.returncode != 0
    assert "max_tokens" in refused.stderr
