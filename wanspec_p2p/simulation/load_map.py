"""From a series of measurements to the load of regions by hour, and from there to delays the simulator can replay."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import TIMEOUT, Measurement
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.scenario import MAX_DELAY_MS, MAX_LOAD, MAX_NODES

__all__ = ["Hour", "LoadMap", "Percentiles", "Region", "failing", "load_map", "scenario"]

MOSTLY = 0.5
"""An hour in which such a share of all measurements failed has no load."""


class Percentiles(msgspec.Struct, frozen=True):
    """In seconds."""

    p50: float
    p90: float
    p99: float


class Hour(msgspec.Struct, frozen=True):
    """One hour of the day (UTC), over all days of the series.

    `load` is the median time to the first token against what is usual in the region: 1 is as usual. Answers that
    timed out are in both medians with the time they had; other failures take none. None where nothing took time,
    and `load` also where at least half of all measurements failed: the few that were served say little of the others.
    """

    hour: int
    measurements: int
    failures: int
    mostly_failed: bool
    first_token: float | None  # median, seconds
    load: float | None


class Region(msgspec.Struct, frozen=True):
    """`synthetic`: delays of one of its endpoints at least were made up.

    `first_token` counts answers that timed out with the time they had, the others have whole ones alone.

    `usual`: median of the times to the first token in the hours of which most was served; in all hours where there is
    no such hour. So hours that mostly failed do not decide what the others are held against.

    `jitter`: mean distance of the time to the first token from the median of its hour of the day, in seconds: what
    `load` does not explain. None where no answer was whole.
    """

    name: str
    synthetic: bool
    endpoints: tuple[str, ...]
    measurements: int
    failures: dict[str, int]  # by kind
    first_token: Percentiles | None
    per_token: Percentiles | None
    usual: float | None
    jitter: float | None
    hours: tuple[Hour, ...]  # 24


class LoadMap(msgspec.Struct, frozen=True):
    synthetic: bool  # some delays were made up
    begun: str  # ISO 8601, UTC
    ended: str
    regions: tuple[Region, ...]

    @property
    def marked(self) -> frozenset[str]:
        """The regions that have to be marked as synthetic one by one, since others are not."""
        made_up = frozenset(region.name for region in self.regions if region.synthetic)
        return made_up if len(made_up) < len(self.regions) else frozenset()


def load_map(
    endpoints: Sequence[ProbedEndpoint], measurements: Iterable[Measurement], *, synthetic: bool = False
) -> LoadMap:
    """An answer that timed out took as long as it had; in older series, which do not say, as long as the slowest first
    token in them.

    Args:
        synthetic: the delays were made up, whatever the endpoints say of themselves.

    Raises:
        ConfigError: there is no measurement.
    """
    region_of = {endpoint.name: endpoint.region for endpoint in endpoints}
    found: dict[str, list[Measurement]] = {endpoint.region: [] for endpoint in endpoints}
    times: list[float] = []
    for measurement in measurements:
        found[region_of[measurement.endpoint]].append(measurement)
        times.append(measurement.at)
    if not times:
        raise ConfigError("the series holds no measurement yet")
    longest = max((m.first_token for own in found.values() for m in own if m.first_token is not None), default=None)
    of_region = {name: [endpoint for endpoint in endpoints if endpoint.region == name] for name in found}
    made_up = {name for name, own in of_region.items() if synthetic or any(endpoint.synthetic for endpoint in own)}
    return LoadMap(
        synthetic=bool(made_up),
        begun=_moment(min(times)),
        ended=_moment(max(times)),
        regions=tuple(
            _region(name, tuple(endpoint.name for endpoint in of_region[name]), name in made_up, own, longest)
            for name, own in found.items()
        ),
    )


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")


def _region(
    name: str, endpoints: tuple[str, ...], synthetic: bool, own: Sequence[Measurement], longest: float | None
) -> Region:
    by_hour: list[list[Measurement]] = [[] for _ in range(24)]
    for measurement in own:
        by_hour[datetime.datetime.fromtimestamp(measurement.at, datetime.UTC).hour].append(measurement)
    first = _first_tokens(own, longest)
    served = [measurement for hour in by_hour if not _mostly_failed(hour) for measurement in hour]
    usual = _median(_first_tokens(served, longest) or first)
    return Region(
        name=name,
        synthetic=synthetic,
        endpoints=endpoints,
        measurements=len(own),
        failures=dict(sorted(Counter(m.failure for m in own if m.failure is not None).items())),
        first_token=_percentiles(first),
        per_token=_percentiles([m.per_token for m in own if m.per_token is not None]),
        usual=usual,
        jitter=_jitter(by_hour),
        hours=tuple(_hour(number, hour, usual, longest) for number, hour in enumerate(by_hour)),
    )


def _mostly_failed(own: Sequence[Measurement]) -> bool:
    return bool(own) and sum(m.failure is not None for m in own) >= MOSTLY * len(own)


def _hour(number: int, own: Sequence[Measurement], usual: float | None, longest: float | None) -> Hour:
    mostly_failed = _mostly_failed(own)
    median = _median(_first_tokens(own, longest))
    return Hour(
        hour=number,
        measurements=len(own),
        failures=sum(m.failure is not None for m in own),
        mostly_failed=mostly_failed,
        first_token=median,
        load=median / usual if median is not None and usual and not mostly_failed else None,
    )


def _first_tokens(own: Iterable[Measurement], longest: float | None) -> list[float]:
    """Of all that took time: whole answers, and those that timed out."""
    times = (longest if m.first_token is None and m.failure == TIMEOUT else m.first_token for m in own)
    return [time for time in times if time is not None]


def _jitter(by_hour: Iterable[Sequence[Measurement]]) -> float | None:
    """Of whole answers: a time-out is no matter of jitter."""
    strays: list[float] = []
    for hour in by_hour:
        whole = [m.first_token for m in hour if m.failure is None and m.first_token is not None]
        median = _median(whole)
        strays += [abs(time - median) for time in whole if median is not None]
    return float(np.mean(strays)) if strays else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    return Percentiles(*(float(p) for p in np.percentile(values, (50, 90, 99)))) if values else None


def failing(region: Region) -> str:
    """At which hours at least half of the measurements failed, in words; empty if there are none."""
    failed = [hour for hour in region.hours if hour.mostly_failed]
    if not failed:
        return ""
    if len(failed) > 1 and len(failed) == sum(hour.measurements > 0 for hour in region.hours):
        return "at least half of the measurements failed in every hour"
    hours = ", ".join(f"{hour.hour:02d}:00 ({hour.failures / hour.measurements * 100:.0f} %)" for hour in failed)
    return f"at least half of the measurements failed at {hours}"


def scenario(found: LoadMap) -> str | None:
    """TOML that `wanspec sim run` plays: for each region its delay and jitter in milliseconds and its load by hour.

    A region without one whole answer is left out, and None is what remains without any; an hour nobody measured, or in
    which most measurements failed, has the usual load, 1. No value is beyond what a scenario may say: what is, becomes
    the most that it may, and a comment names it.
    """
    regions = [region for region in found.regions if region.jitter is not None]
    if not regions:
        return None
    lines = [
        "# Delays as `wanspec probe` observed them: see docs/how-to/measure-load.md. `wanspec sim run` replays them,",
        "# each as the round trip to the nodes of its region; what else it may say is in docs/reference/cli.md.",
        "# delay_ms: median time to the first token, without hours of which at least half failed. load: for each hour",
        "# of the day (UTC), its median against that; 1 where nobody measured, or at least half failed. jitter_ms: the",
        "# mean distance from the median of the hour.",
        *([f"# {len(regions)} regions were measured; a scenario has {MAX_NODES}."] if len(regions) > MAX_NODES else []),
        "",
        "[observed]",
        f"synthetic = {str(any(region.synthetic for region in regions)).lower()}",
        f"begun = {found.begun}",
        f"ended = {found.ended}",
    ]
    return (
        "\n".join([*lines, *(line for region in regions[:MAX_NODES] for line in _table(region, found.marked))]) + "\n"
    )


def _table(region: Region, marked: frozenset[str]) -> list[str]:
    """A `[[region]]` of the scenario, and before it an empty line."""
    loads = [1.0 if hour.load is None else hour.load for hour in region.hours]
    remarks = ["synthetic: made up, not observed" if region.name in marked else "", failing(region)]
    if beyond := [f"{hour:02d}:00 ({load:.0f})" for hour, load in enumerate(loads) if load > MAX_LOAD]:
        remarks.append(f"load is more than a scenario may say, {MAX_LOAD}, at {', '.join(beyond)}")
    return [
        "",
        "[[region]]",
        f"name = {json.dumps(region.name, ensure_ascii=False)}",
        *(f"# {remark}" for remark in remarks if remark),
        "nodes = 1",
        f"delay_ms = {_number((region.usual or 0.0) * 1e3, MAX_DELAY_MS)}",
        f"jitter_ms = {_number((region.jitter or 0.0) * 1e3, MAX_DELAY_MS)}",
        f"load = [{', '.join(_number(load, MAX_LOAD) for load in loads)}]",
    ]


def _number(value: float, most: float) -> str:
    """Three decimals, or more where that takes it to have four digits that say something."""
    value = min(value, most)
    decimals = 3 if value <= 0.0 else max(3, 3 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f}"
