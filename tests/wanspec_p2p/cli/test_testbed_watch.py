from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from wanspec_p2p.cli import testbed_watch
from wanspec_p2p.cli.processes import Child, Fleet
from wanspec_p2p.cli.testbed_watch import Look, Watch
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import WanspecError

COUNTING = """
import json, sys
for number, line in enumerate(sys.stdin):
    print(json.dumps({"node_passes": 5 * number, "node_late_seconds": 0.5 * number}), flush=True)
"""


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with asyncio.timeout(30), Fleet(tmp_path, os.environ) as fleet:
        yield fleet


async def started(fleet: Fleet, name: str, program: str) -> Child:
    return await fleet.start(name, [sys.executable, "-S", "-c", program])


def look(at: float, passes: int, late: float, used: float) -> Look:
    counts = {
        name: {"node_passes": float(passes), "node_late_seconds": late, "node_pause_seconds": pause}
        for name, pause in (("node-1", 0.001), ("node-2", 0.002))
    }
    return Look(at, counts | {"target": {"target_passes": 1.0}}, {"target": used, "machine": 3 * used}, 2)


def test_two_looks_tell_what_was_done_between_them() -> None:
    before, after = look(10.0, 100, 1.0, 5.0), look(14.0, 150, 1.2, 6.0)
    assert after.passes_since(before, "node") == 100
    assert after.late_since(before, "node") == pytest.approx(0.4 / 100)
    assert after.passes_since(before, "target") == 0 and after.late_since(before, "target") == 0.0
    assert after.passes_since(before, "local") == 0 and after.late_since(before, "local") == 0.0
    assert after.pause("node") == pytest.approx(0.0015) and after.pause("local") == 0.0
    assert after.cores_since(before) == {"target": 0.25, "machine": 0.375}


async def test_every_peer_is_asked_and_every_process_looked_at(fleet: Fleet) -> None:
    coordinator, node = await started(fleet, "coordinator", "input()"), await started(fleet, "node-1", COUNTING)
    clock = ManualClock()
    watch = Watch(coordinator, {"node-1": node}, clock)
    before = await watch.look()
    clock.advance(2.0)
    after = await watch.look()
    assert (after.at - before.at, after.passes_since(before, "node"), after.late_since(before, "node")) == (2.0, 5, 0.1)
    assert set(after.cores_since(before)) == {"node-1", "coordinator", "relay", "machine"}


@pytest.mark.parametrize("program", ["raise SystemExit", "print('hello')", "print('[1]')"])
async def test_a_peer_that_says_something_else_is_named(fleet: Fleet, program: str) -> None:
    child = await started(fleet, "node-1", f"input(); {program}; input()")
    with pytest.raises(WanspecError, match="the node-1 does not say what it has done"):
        await Watch(child, {"node-1": child}, ManualClock()).look()


async def test_a_peer_that_says_nothing_is_not_waited_for(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed_watch, "COUNTS_SECONDS", 0.01)
    child = await started(fleet, "node-1", "input(); input()")
    with pytest.raises(WanspecError, match="the node-1 does not say what it has done"):
        await Watch(child, {"node-1": child}, ManualClock()).look()
