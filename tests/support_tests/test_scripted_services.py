"""The stand-ins really are what they stand in for: processes that join, draft, and answer as the rule says."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_models import ByteTokenizer
from tests.support.scripted_services import MODEL, running_services, target_model
from tests.support.target_kit import target_alone
from wanspec_p2p.types import Sampling

pytestmark = pytest.mark.system


def test_the_answer_is_the_targets_own_and_nodes_drafted_it(tmp_path: Path) -> None:
    with running_services(tmp_path, nodes=1) as services:
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 60, "temperature": 0}
        asked = urllib.request.Request(
            services.url + "/v1/completions",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {services.key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as response:
            answer = json.loads(response.read())
        assert answer["wanspec"]["token_ids"] == target_alone(
            target_model(), ByteTokenizer().encode("hi"), 60, Sampling()
        )
        assert answer["metrics"]["wanspec"]["drafters"] == 1
        assert answer["metrics"]["wanspec"]["accepted"] > 0
        nothing_is_left(services)
    assert all(process.returncode is not None for process in services.processes.values())
