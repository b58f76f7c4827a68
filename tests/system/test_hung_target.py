"""A target that is stopped in the middle of an answer is seen by whoever looks, before the coordinator gives it up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_services import MODEL, Services, running_services
from wanspec_p2p.client import Client

pytestmark = pytest.mark.system

SECONDS = 60.0


def test_a_stopped_target_is_shown_as_one_that_does_not_answer(tmp_path: Path, no_orphans: None) -> None:
    with running_services(tmp_path, nodes=1) as services:
        target = services.processes["target"]
        with Client(services.url, api_key=services.key, timeout=SECONDS) as client:
            with client.stream("hi", model=MODEL, max_tokens=2000, temperature=0.0) as stream:
                assert next(iter(stream)).token_ids
                target.send_signal(signal.SIGSTOP)
                try:
                    (seen,) = looked(services, lambda state: any(entry["hung"] for entry in state["targets"]))[
                        "targets"
                    ]
                    assert seen["silent_seconds"] > 0 and seen["answers"] == 1, "and not yet given up"
                finally:
                    target.send_signal(signal.SIGCONT)
                looked(services, lambda state: state["targets"] and not state["targets"][0]["hung"])


def looked(services: Services, condition: Callable[[Any], bool]) -> Any:
    """The first state for which it holds: nobody tells."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.1)):
        state = services.get("/api/state")
        if condition(state):
            return state
        pause.wait(0.1)
    raise AssertionError(state)
