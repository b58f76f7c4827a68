"""A day of `wanspec probe` in minutes: three local services whose injected delays follow the hour, and their load map.

    python -m tests.probe_day --minutes 24 --out load-map

The services are on loopback and wait before they answer, as a busy region would; what is measured is real, and made up
only in that somebody said how busy each region is. The clock that dates measurements runs fast, those that time them do
not. Everything that comes of it is labelled synthetic. Figures and scenario of the documentation come from here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.fake_openai import FakeOpenAI, serving
from wanspec_p2p.cli.main import main as wanspec
from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.client.probing import probe
from wanspec_p2p.client.series import Series
from wanspec_p2p.clock import SystemClock

DAY = 86400.0
MIDNIGHT = 1_793_664_000.0
"""2026-11-03 00:00 UTC, a Tuesday."""
EVERY = 300.0
"""Seconds of that day between two measurements of a service."""
STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Region:
    """`first` and `each` are seconds at the quietest hour; at `busiest` (UTC) both are `times` as long."""

    name: str
    first: float
    each: float
    busiest: float
    times: float

    def load(self, hour: float) -> float:
        """1 at night; one broad peak of working hours."""
        apart = abs((hour - self.busiest + 12.0) % 24.0 - 12.0)
        return 1.0 + (self.times - 1.0) * math.exp(-((apart / 4.0) ** 2))


REGIONS = (
    Region("us-west", 0.030, 0.006, busiest=20.0, times=3.0),
    Region("eu-north", 0.045, 0.005, busiest=11.0, times=2.2),
    Region("asia-east", 0.070, 0.008, busiest=4.0, times=1.8),
)


class FastClock(SystemClock):
    """Dates run `speed` times as fast from MIDNIGHT on; `monotonic` is real."""

    def __init__(self, speed: float) -> None:
        self._speed, self._begun = speed, self.monotonic()

    def wall(self) -> float:
        return MIDNIGHT + (self.monotonic() - self._begun) * self._speed

    @property
    def hour(self) -> float:
        return (self.wall() - MIDNIGHT) / 3600.0 % 24.0


async def _keep_busy(services: list[FakeOpenAI], clock: FastClock, rng: random.Random) -> None:
    """Delays as the hour has them, a fifth more or less."""
    while True:
        for region, service in zip(REGIONS, services, strict=True):
            load = region.load(clock.hour) * rng.uniform(0.8, 1.2)
            service.first, service.each = region.first * load, region.each * load
        await asyncio.sleep(STEP_SECONDS)


async def _measure(series: Series, services: list[FakeOpenAI], urls: list[str], seconds: float) -> None:
    clock, rng = FastClock(DAY / seconds), random.Random(1)
    plan = ProbePlan(
        tuple(
            ProbedEndpoint(region.name, region.name, url, "fake", synthetic=True)
            for region, url in zip(REGIONS, urls, strict=True)
        ),
        max_tokens=8,
    )
    series.enrol(plan.endpoint)
    busy = asyncio.create_task(_keep_busy(services, clock, rng))
    try:
        interval = EVERY / DAY * seconds
        await probe(plan, {}, series.add, seconds=seconds, interval=interval, concurrency=3, clock=clock, rng=rng)
    finally:
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.probe_day", description=__doc__)
    parser.add_argument("--minutes", type=float, default=24.0, help="that the day takes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the series, the map and the scenario")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    services = [FakeOpenAI() for _ in REGIONS]
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(serving(service)) for service in services]
        series = stack.enter_context(Series(chosen.out / "load.sqlite3", create=True))
        asyncio.run(_measure(series, services, urls, chosen.minutes * 60.0))
    return wanspec(["probe", "report", str(chosen.out / "load.sqlite3"), "--out", str(chosen.out)])


if __name__ == "__main__":
    sys.exit(main())
