"""From a series of measurements to the load of regions by hour, and from there to delays the simulator can replay."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import Measurement
from wanspec_p2p.errors import ConfigError

__all__ = ["Hour", "LoadMap", "Percentiles", "Region", "load_map", "scenario"]


class Percentiles(msgspec.Struct, frozen=True):
    """In seconds."""

    p50: float
    p90: float
    p99: float


class Hour(msgspec.Struct, frozen=True):
    """One hour of the day (UTC), over all days of the series.

    `load` is the median time to the first token against the region's over all hours: 1 is usual. It and `first_token`
    are None where no answer was whole.
    """

    hour: int
    measurements: int
    failures: int
    first_token: float | None  # median, seconds
    load: float | None


class Region(msgspec.Struct, frozen=True):
    """`jitter`: mean distance of the time to the first token from the median of its hour of the day, in seconds: what
    `load` does not explain.
    """

    name: str
    endpoints: tuple[str, ...]
    measurements: int
    failures: dict[str, int]  # by kind
    first_token: Percentiles | None
    per_token: Percentiles | None
    jitter: float | None
    hours: tuple[Hour, ...]  # 24


class LoadMap(msgspec.Struct, frozen=True):
    synthetic: bool  # some delays were made up
    begun: str  # ISO 8601, UTC
    ended: str
    regions: tuple[Region, ...]


def load_map(
    endpoints: Sequence[ProbedEndpoint], measurements: Iterable[Measurement], *, synthetic: bool = False
) -> LoadMap:
    """Args:
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
    return LoadMap(
        synthetic=synthetic or any(endpoint.synthetic for endpoint in endpoints),
        begun=_moment(min(times)),
        ended=_moment(max(times)),
        regions=tuple(
            _region(name, tuple(e.name for e in endpoints if e.region == name), own) for name, own in found.items()
        ),
    )


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")


def _region(name: str, endpoints: tuple[str, ...], own: Sequence[Measurement]) -> Region:
    first = [m.first_token for m in own if m.first_token is not None]
    by_hour: list[list[Measurement]] = [[] for _ in range(24)]
    for measurement in own:
        by_hour[datetime.datetime.fromtimestamp(measurement.at, datetime.UTC).hour].append(measurement)
    medians = [_median([m.first_token for m in hour if m.first_token is not None]) for hour in by_hour]
    usual = _median(first)
    strays = [
        abs(m.first_token - median)
        for hour, median in zip(by_hour, medians, strict=True)
        for m in hour
        if m.first_token is not None and median is not None
    ]
    return Region(
        name=name,
        endpoints=endpoints,
        measurements=len(own),
        failures=dict(sorted(Counter(m.failure for m in own if m.failure is not None).items())),
        first_token=_percentiles(first),
        per_token=_percentiles([m.per_token for m in own if m.per_token is not None]),
        jitter=float(np.mean(strays)) if strays else None,
        hours=tuple(
            Hour(
                hour=number,
                measurements=len(hour),
                failures=sum(m.failure is not None for m in hour),
                first_token=median,
                load=median / usual if median is not None and usual else None,
            )
            for number, (hour, median) in enumerate(zip(by_hour, medians, strict=True))
        ),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    return Percentiles(*(float(p) for p in np.percentile(values, (50, 90, 99)))) if values else None


def scenario(found: LoadMap) -> str | None:
    """TOML that `wanspec sim run` plays: for each region its delay and jitter in milliseconds and its load by hour.

    A region without one whole answer is left out, and None is what remains without any; an hour nobody measured has the
    usual load, 1.
    """
    if all(region.first_token is None for region in found.regions):
        return None
    lines = [
        "# Delays as `wanspec probe` observed them: see docs/how-to/measure-load.md. `wanspec sim run` replays them,",
        "# each as the round trip to the nodes of its region; what else it may say is in docs/reference/cli.md.",
        "# delay_ms: median time to the first token. load: for each hour of the day (UTC), its median against that;",
        "# 1 where nobody measured. jitter_ms: mean distance from the median of the hour.",
        "",
        "[observed]",
        f"synthetic = {str(found.synthetic).lower()}",
        f"begun = {found.begun}",
        f"ended = {found.ended}",
    ]
    for region in found.regions:
        if region.first_token is None or region.jitter is None:
            continue
        load = ", ".join(f"{1.0 if hour.load is None else hour.load:.3f}" for hour in region.hours)
        lines += [
            "",
            "[[region]]",
            f"name = {json.dumps(region.name, ensure_ascii=False)}",
            "nodes = 1",
            f"delay_ms = {region.first_token.p50 * 1e3:.3f}",
            f"jitter_ms = {region.jitter * 1e3:.3f}",
            f"load = [{load}]",
        ]
    return "\n".join(lines) + "\n"
