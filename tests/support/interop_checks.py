"""What every client must leave behind: nothing."""

from __future__ import annotations

import subprocess

from tests.support.scripted_services import Services

__all__ = ["nothing_is_left"]


def nothing_is_left(services: Services) -> None:
    """An answer that was hung up on is over at the target within two seconds; it would have taken a minute."""
    target = services.processes["target"]
    for _ in range(20):
        state = services.get("/api/state")
        if state["answers"] == 0 and all(entry["answers"] == 0 for entry in state["targets"]):
            return
        try:
            raise AssertionError(f"the target ended with status {target.wait(0.1)}")
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("an answer goes on that nobody waits for")
