"""What the processes of the testbed do, as they and the system count it: how far to trust a figure."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from wanspec_p2p.cli.processes import Child
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import WanspecError

__all__ = ["Look", "Watch", "counts"]

COUNTS_SECONDS = 30.0
MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment, since the processes began.

    Attributes:
        at: seconds of the clock.
        counts: of each peer: `MODEL_passes`, `MODEL_late_seconds` and `MODEL_pause_seconds` for each of its models.
        used: processor seconds by process; MACHINE is what all cores did not idle.
        cores: of the machine.
    """

    at: float
    counts: Mapping[str, Mapping[str, float]]
    used: Mapping[str, float]
    cores: int

    def passes_since(self, before: Look, model: str) -> int:
        """On all peers that have such a model."""
        return int(self._sum(before, f"{model}_passes"))

    def late_since(self, before: Look, model: str) -> float:
        """Mean seconds by which a pass ended too late."""
        passes = self.passes_since(before, model)
        return self._sum(before, f"{model}_late_seconds") / passes if passes else 0.0

    def pause(self, model: str) -> float:
        """Seconds from the last pass to one of this model: the median of each peer's, and of those the mean."""
        pauses = [own[key] for own in self.counts.values() if (key := f"{model}_pause_seconds") in own]
        return statistics.fmean(pauses) if pauses else 0.0

    def cores_since(self, before: Look) -> dict[str, float]:
        """Processor seconds a second, by process; MACHINE: the share of all cores that somebody used."""
        seconds = self.at - before.at
        cores = {name: (used - before.used[name]) / seconds for name, used in self.used.items()}
        return cores | {MACHINE: cores[MACHINE] / self.cores}

    def _sum(self, before: Look, count: str) -> float:
        return sum(own.get(count, 0.0) - before.counts[peer].get(count, 0.0) for peer, own in self.counts.items())


class Watch:
    """Args:
    peers: answer each line on their stdin with one of counts.
    """

    def __init__(self, coordinator: Child, peers: Mapping[str, Child], clock: Clock) -> None:
        self._peers, self._clock = peers, clock
        self._processes = {name: psutil.Process(child.process.pid) for name, child in peers.items()}
        self._processes |= {"coordinator": psutil.Process(coordinator.process.pid), "relay": psutil.Process()}

    async def look(self) -> Look:
        """Raises WanspecError: a peer does not answer."""
        found = {name: await counts(child) for name, child in self._peers.items()}
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        used = {name: own.user + own.system for name, own in times.items()}
        at, cores, machine = self._clock.monotonic(), psutil.cpu_count() or 1, psutil.cpu_times()
        used[MACHINE] = cores * at - machine.idle - getattr(machine, "iowait", 0.0)
        return Look(at, found, used, cores)


async def counts(child: Child) -> dict[str, float]:
    """What a peer of the testbed says that it has done. Ask one thing of it at a time.

    Raises:
        WanspecError: it says nothing in time, or something else.
    """
    assert child.process.stdin is not None and child.process.stdout is not None
    child.process.stdin.write(b"\n")
    try:
        async with asyncio.timeout(COUNTS_SECONDS):
            line = await child.process.stdout.readline()
        return {str(name): float(count) for name, count in json.loads(line).items()}
    except (TimeoutError, ValueError, TypeError, AttributeError) as error:
        raise WanspecError(f"the {child.name} does not say what it has done") from error
