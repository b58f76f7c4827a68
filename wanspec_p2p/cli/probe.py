"""`wanspec probe`: how loaded OpenAI-compatible services are, by region and hour."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanspec_p2p.cli.output import Json, console, emit, printable, progress_bars, say
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.client.keeping import Keeper
    from wanspec_p2p.client.probe_plan import ProbePlan
    from wanspec_p2p.client.series import Measurement, Series
    from wanspec_p2p.clock import Clock
    from wanspec_p2p.simulation.load_map import LoadMap, Percentiles, Region

__all__ = ["app"]

app = typer.Typer(help="Measure how loaded services are, by region and hour.", no_args_is_help=True)

LONGEST = 366 * 86400.0
SHORTEST_NAME = 9
"""Columns that a region's name has on a narrow screen."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="TOML file that lists the endpoints.")],
    out: Annotated[Path, typer.Option(help="Where the series is stored; one that was begun goes on.")] = Path(
        "load.sqlite3"
    ),
    duration: Annotated[str, typer.Option(help="From the first measurement of the series: 90s, 30m, 24h, 7d.")] = "24h",
    interval: Annotated[str, typer.Option(help="From one measurement of an endpoint to the next.")] = "5m",
    concurrency: Annotated[int, typer.Option(help="Answers under way at the same time.", min=1, max=64)] = 4,
    json: Json = False,
) -> None:
    """Measure time to first token and time per token of the endpoints in PLAN, again and again."""
    from wanspec_p2p.client.keeping import Keeper
    from wanspec_p2p.client.probe_plan import read_keys, read_plan
    from wanspec_p2p.client.series import Series
    from wanspec_p2p.clock import SystemClock

    whole, step = _seconds("--duration", duration), _seconds("--interval", interval)
    chosen = read_plan(plan)
    keys = read_keys(chosen, os.environ)
    clock = SystemClock()
    with Series(out, create=True) as series, _alone(out):
        series.settle(chosen)
        series.enrol(chosen.endpoint)
        begun = series.begun()
        passed = 0.0 if begun is None else max(clock.wall() - begun, 0.0)
        if passed >= whole:
            raise ConfigError(f"the series {out} is {_words(passed)} old: it goes on with a longer --duration")
        keeper = Keeper(series, lambda: _say_locked(out))
        try:
            _probe(chosen, keys, keeper, seconds=whole - passed, interval=step, concurrency=concurrency, clock=clock)
        except KeyboardInterrupt:
            _say_interrupted(series, keeper.unstored)
            raise
        _show_run(series, json=json)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock file beside the series, which stays there.

    Raises:
        ConfigError: another run stores into this series, or the file cannot be written or locked.
    """
    from wanspec_p2p.locking import file_lock

    def refuse() -> None:
        raise ConfigError(f"another `wanspec probe run` stores into {out}: let it go on, or name another --out")

    file = Path(os.path.realpath(out))  # the same by whatever link it is reached; `resolve` raises for a loop of them
    path = file.with_name(f"{file.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, refuse))
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be locked ({error.strerror}): mend that, or name another --out"
            ) from error
        yield


def _probe(
    plan: ProbePlan,
    keys: dict[str, str],
    keeper: Keeper,
    *,
    seconds: float,
    interval: float,
    concurrency: int,
    clock: Clock,
) -> None:
    import asyncio
    import random
    import secrets

    from wanspec_p2p.client.probing import probe, warm_up

    begin = clock.monotonic()
    with progress_bars() as progress, keeper:
        watch = _Watch(plan)

        def keep(found: Measurement) -> None:
            keeper(found)
            watch(found)
            progress("measure", int(min(clock.monotonic() - begin, seconds)), int(seconds))

        async def measured() -> None:
            await warm_up(clock)
            await probe(
                plan,
                keys,
                keep,
                seconds=seconds,
                interval=interval,
                concurrency=concurrency,
                clock=clock,
                rng=random.Random(secrets.randbits(64)),
            )

        asyncio.run(measured())


def _say_locked(out: Path) -> None:
    _warn(f"another program has {out} locked: measuring goes on, and is stored as soon as that lets go")


class _Watch:
    """Says on stderr when an endpoint begins to fail, and when it answers again."""

    def __init__(self, plan: ProbePlan) -> None:
        self._keys = {endpoint.name: endpoint.api_key_env for endpoint in plan.endpoint}
        self._failing: set[str] = set()

    def __call__(self, found: Measurement) -> None:
        name, failed = found.endpoint, found.failure is not None
        if failed == (name in self._failing):
            return
        if not failed:
            self._failing.remove(name)
            _warn(f"{name} answers again")
            return
        self._failing.add(name)
        key = self._keys[name] if found.failure in ("http 401", "http 403") else None
        _warn(f"{name} fails ({found.failure})" + (f": see whether {key} holds its key" if key else ""))


def _warn(line: str) -> None:
    typer.echo(f"wanspec: {printable(line)}", err=True)


def _say_interrupted(series: Series, unstored: int) -> None:
    with contextlib.suppress(ConfigError):  # it may still be locked
        for line in _told(_counts(series)):
            _warn(line)
    lost = f"{counted(unstored, 'measurement')} could not be stored; the rest" if unstored else "what was measured"
    _warn(f"interrupted: {lost} is in {series.path}; repeat the command to go on")


def _counts(series: Series) -> dict[str, Counter[str]]:
    """How often each endpoint failed in which way; "" is not at all."""
    found = {endpoint.name: Counter[str]() for endpoint in series.endpoints()}
    for measurement in series.measurements():
        found[measurement.endpoint][measurement.failure or ""] += 1
    return found


def _told(counts: dict[str, Counter[str]]) -> Iterator[str]:
    for name, count in counts.items():
        yield f"{name}: {counted(count.total(), 'measurement')}, {_kinds(count) or 'none failed'}"


def _kinds(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(failures.items()) if kind)


def _show_run(series: Series, *, json: bool) -> None:
    counts = _counts(series)
    if json:
        emit(
            {
                "series": str(series.path),
                "endpoints": [
                    {"name": name, "measurements": count.total(), "failures": {k: n for k, n in count.items() if k}}
                    for name, count in counts.items()
                ],
            }
        )
        return
    for line in _told(counts):
        say(printable(line))
    say(f"The series is in {series.path}; draw it: wanspec probe report {series.path}")


@app.command()
def report(
    series: Annotated[Path, typer.Argument(metavar="SERIES", help="What `wanspec probe run` stored.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files; by default named after SERIES.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Label the delays as made up.")] = False,
    json: Json = False,
) -> None:
    """Draw the load map of a series, and write its delays as a scenario for the simulator."""
    import importlib.util

    import msgspec

    drawing = importlib.util.find_spec("matplotlib") is not None
    if not drawing and not json:
        raise ConfigError(
            "drawing needs matplotlib: install it, or wanspec-p2p with [distill]; --json does without figures"
        )
    from wanspec_p2p.client.series import Series
    from wanspec_p2p.models.distill.files import replace_file
    from wanspec_p2p.simulation.load_figure import draw
    from wanspec_p2p.simulation.load_map import load_map, scenario

    with Series(series) as stored:
        measured = list(stored.measurements())  # before the endpoints: a run may add some
        found = load_map(stored.endpoints(), measured, synthetic=synthetic)
    folder = out or series.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"--out {folder} is a file: name a folder"
            if out is not None
            else f"the files of {series} would go into the folder {folder}, and that is a file: name one with --out"
        )
    files = {f"load-map.{kind}": content for kind, content in (draw(found) if drawing else {}).items()}
    if not drawing:
        _warn("matplotlib is not installed, so no figure is drawn")
    files["load-map.json"] = msgspec.json.format(msgspec.json.encode(found)) + b"\n"
    played = scenario(found)
    if played is None:
        _warn("no region had a whole answer, so no scenario.toml is written")
    else:
        files["scenario.toml"] = played.encode()
    for name, content in files.items():
        replace_file(folder / name, content, again="repeat the command")
    if json:
        emit(msgspec.to_builtins(found))
    else:
        _show_map(found)
        say(f"\nWritten to {folder}: {', '.join(sorted(files))}")


def _show_map(found: LoadMap) -> None:
    from rich.table import Table
    from rich.text import Text

    from wanspec_p2p.simulation.load_map import failing

    marked = found.marked
    if marked:
        say("Delays of regions marked as synthetic were made up, not observed.")
    elif found.synthetic:
        say("These delays are synthetic: made up, not observed.")
    table = Table(box=None, pad_edge=False)
    table.add_column("region", overflow="fold", min_width=SHORTEST_NAME)
    for heading in ("measured", "failed", "first token\np50/p90/p99", "per token\np50/p90/p99", "busiest\nhour, UTC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for region in found.regions:
        table.add_row(
            Text(printable(region.name) + (" (synthetic)" if region.name in marked else "")),
            str(region.measurements),
            str(sum(region.failures.values())),
            _milliseconds(region.first_token),
            _milliseconds(region.per_token),
            _busiest(region),
        )
    console().print(table)
    for region in found.regions:
        if kinds := _kinds(region.failures):
            say(printable(f"failures in {region.name}: {kinds}"))
        if failed := failing(region):
            say(printable(f"{region.name}: {failed}"))


def _milliseconds(found: Percentiles | None) -> str:
    return "–" if found is None else f"{found.p50 * 1e3:.0f}/{found.p90 * 1e3:.0f}/{found.p99 * 1e3:.0f} ms"


def _busiest(region: Region) -> str:
    """The hour of which most failed, if there is one: what was served in others is not as bad."""
    if failed := [hour for hour in region.hours if hour.mostly_failed]:
        share, _, worst = max((hour.failures / hour.measurements, hour.failures, hour.hour) for hour in failed)
        return f"{worst:02d}:00\n{share * 100:.0f} % failed"
    load, hour = max(((h.load, h.hour) for h in region.hours if h.load is not None), default=(0.0, 0))
    return f"{hour:02d}:00 × {load:.2f}" if load else "–"


def _seconds(flag: str, text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0.1 <= seconds <= LONGEST:
        raise ConfigError(f"{flag} {text!r} is not a time: it looks like 90s, 30m, 24h or 7d, a year at most")
    return seconds


def _words(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds:.0f} seconds"
