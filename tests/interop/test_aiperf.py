"""NVIDIA AIPerf 0.13: a benchmark of somebody else's, its speculative decoding table filled from our metrics."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import MODEL, Services
from tests.support.tiny_models import write_tokenizer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

REQUESTS, TOKENS = 6, 24


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_profile_has_the_table_of_speculative_decoding(
    kind: str,
    program: Callable[[str, str], Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
    services: Services,
    tmp_path: Path,
) -> None:
    command = program("aiperf", "aiperf")
    tokenizer, results = tmp_path / "tokenizer", tmp_path / "results"
    tokenizer.mkdir()
    write_tokenizer(tokenizer)
    load = ("--request-count", REQUESTS, "--concurrency", 2, "--synthetic-input-tokens-mean", 16)
    asked = ("--output-tokens-mean", TOKENS, "--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0")
    where = ("--url", services.url, "--api-key", services.key, "--tokenizer", tokenizer, "--artifact-dir", results)
    done = run(
        *(command, "profile", "--model", MODEL, "--endpoint-type", kind, "--streaming", "--ui", "none"),
        *(*where, *load, *asked, "--use-server-token-count"),
        COLUMNS="160",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Spec Decode" in done.stdout
    profile = json.loads((results / "profile_export_aiperf.json").read_text())
    assert profile["request_count"]["avg"] == REQUESTS
    assert profile["total_usage_completion_tokens"]["avg"] == REQUESTS * TOKENS
    _figures(profile)
    nothing_is_left(services)


def _figures(profile: dict[str, Any]) -> None:
    """It drops the figures of an answer that do not agree with each other, so the sums tell that none was dropped."""
    by_accepted = {int(j): steps for j, steps in profile["pooled_spec_decode_acceptance_histogram"].items()}
    accepted = sum(j * steps for j, steps in by_accepted.items())
    assert profile["spec_decode_steps"]["count"] == REQUESTS
    assert profile["total_spec_decode_steps"]["avg"] == sum(by_accepted.values()) > 0
    assert profile["total_accepted_draft_tokens"]["avg"] == accepted > 0
    assert profile["total_usage_accepted_prediction_tokens"]["avg"] == accepted
    weighted = profile["spec_decode_token_weighted_acceptance_length"]["avg"]
    assert weighted == pytest.approx(1 + accepted / sum(by_accepted.values()))
