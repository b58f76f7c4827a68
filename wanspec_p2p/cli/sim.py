"""`wanspec sim`: the shipped code in virtual time, where distance costs nothing but figures."""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import LARGEST_SEED, check_svg, listed, numbers, today, whole, write_pictures
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.cli.sim_capacity import capacity
from wanspec_p2p.cli.sim_clients import clients
from wanspec_p2p.cli.sim_run import run
from wanspec_p2p.cli.sim_studies import adversity, paper
from wanspec_p2p.cli.sim_swarm import swarm
from wanspec_p2p.errors import ConfigError, EngineError
from wanspec_p2p.protocol.limits import MAX_DRAFTERS
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.simulation.experiment import Plan
    from wanspec_p2p.simulation.racing import Rules

__all__ = ["app"]

app = typer.Typer(help="Play the shipped code in virtual time.", no_args_is_help=True)


class ReferenceLaw(enum.StrEnum):
    """`simulation.reference.LawName`, as a flag has it."""

    IID = "iid"
    CALIBRATED = "calibrated"
    RECORDED = "recorded"


SEEDS = 10
QUICK_RTT_MS = (0.0, 30.0, 100.0)
LONGEST_RTT_MS = 10_000.0


@app.callback()
def sim() -> None:
    """Play the shipped code in virtual time."""


@app.command()
def reference(
    seeds: Annotated[int | None, typer.Option(help="Answers of each setting; 10 by default.", min=1, max=1000)] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Of an answer; 256 by default. A start counts for less in a long one.", min=8, max=4096),
    ] = None,
    rtt: Annotated[str | None, typer.Option(help="Round trips in milliseconds, with commas.")] = None,
    drafters: Annotated[str, typer.Option(help="Drafters of an answer, with commas.")] = "2,4",
    law: Annotated[
        ReferenceLaw, typer.Option(help="How right drafters are: by chances, or as a recorded SmolLM2 pair was.")
    ] = ReferenceLaw.IID,
    temperature: Annotated[
        float | None, typer.Option(help="That the SmolLM2 pair was recorded at: 0, which is the default, or 0.8.")
    ] = None,
    verify_code: Annotated[
        float, typer.Option(help="Milliseconds of our own code for each verification.", min=0.0, max=1000.0)
    ] = 0.0,
    draft_code: Annotated[
        float, typer.Option(help="Milliseconds of our own code for each draft pass of the target.", min=0.0, max=1000.0)
    ] = 0.0,
    node_code: Annotated[
        float, typer.Option(help="Milliseconds of our own code for each pass of a node.", min=0.0, max=1000.0)
    ] = 0.0,
    prices: Annotated[
        str | None, typer.Option(help="Show what it is like to hold a pass at the target so much dearer, with commas.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that play at the same time.", min=1, max=256)] = 2,
    ablate: Annotated[bool, typer.Option("--ablate", help="With one thing changed at a time.")] = False,
    ideal: Annotated[
        bool, typer.Option("--ideal", help="Calculate what drafters without a fault would reach instead.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="SVG file to draw into, a PNG beside it; needs matplotlib.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One short answer, few distances: a look.")] = False,
    json: Json = False,
) -> None:
    """Compare remote drafting with a tree and a chain drafted at the target, by distance."""
    from wanspec_p2p.simulation.experiment import ABLATION_RTT_MS, RTT_MS, Plan, Variant, ablations, priced
    from wanspec_p2p.simulation.racing import Rules
    from wanspec_p2p.simulation.reference import Setting

    if ideal and ablate:
        raise ConfigError("--ideal knows the reference only: leave --ablate away")
    if ideal and law is not ReferenceLaw.IID:
        raise ConfigError("--ideal knows chances alone: leave --law away")
    code = {"--verify-code": verify_code, "--draft-code": draft_code, "--node-code": node_code}
    if ideal and any(code.values()):
        given = " and ".join(flag for flag, ms in code.items() if ms)
        raise ConfigError(f"--ideal has nothing take time but passes and ways: leave {given} away")
    if temperature is not None:
        _check_temperature(temperature, law)
    if figure is not None:
        _check_figure(figure, ablate=ablate)
    usual = ABLATION_RTT_MS if ablate else QUICK_RTT_MS if quick else RTT_MS
    distances = usual if rtt is None else numbers("--rtt", rtt, 0.0, LONGEST_RTT_MS)
    counts = whole("--drafters", drafters, MAX_DRAFTERS)
    shown = () if prices is None else _prices(prices)
    base = Setting(tokens=64, warm_up=32) if quick else Setting()
    base = base if tokens is None else replace(base, tokens=tokens)
    base = replace(base, law=law.value, temperature=temperature or 0.0)
    base = replace(base, verify_code=verify_code / 1e3, draft_code=draft_code / 1e3, node_code=node_code / 1e3)
    variants = ablations(base) if ablate else {"": Variant(base)}
    plans = {name: Plan(variant, distances, counts) for name, variant in variants.items()}
    chosen = seeds or (1 if quick else SEEDS)
    found = _play(plans, Rules(chosen, tuple(map(priced, shown))), jobs, ideal=ideal)
    flags = {"--ablate": ablate, "--ideal": ideal, "--quick": quick}
    words = ["wanspec sim reference", *(flag for flag, given in flags.items() if given)]
    words += [f"--seeds {chosen}", *([] if tokens is None else [f"--tokens {tokens}"])]
    words += [] if law is ReferenceLaw.IID else [f"--law {law.value}"]
    words += [f"--temperature {temperature:.15g}"] if temperature else []
    words += [f"{flag} {ms:.15g}" for flag, ms in code.items() if ms]
    words += [f"--prices {listed(shown)}"] if shown else []
    words += [f"--rtt {listed(distances)}", f"--drafters {listed(counts)}"]
    report: dict[str, Any] = {"version": __version__, "date": today(), "command": " ".join(words), "seeds": chosen}
    report |= {"ideal": True} if ideal else {}
    report |= {"variants": found} if ablate else found[""]
    if json:
        emit(report)
    else:
        _show(report, found, [priced(price) for price in shown])
    if figure is not None:  # last: what goes wrong with it costs no figures
        _draw(report, figure)


def _prices(wanted: str) -> tuple[float, ...]:
    from wanspec_p2p.simulation.experiment import PRICES

    found = numbers("--prices", wanted, 0.0, PRICES[-1])
    for price in found:
        if price not in PRICES:
            raise ConfigError(f"--prices: {price:g} is none of {listed(PRICES)}")
    return found


def _check_temperature(temperature: float, law: ReferenceLaw) -> None:
    from wanspec_p2p.simulation.recording import check_shipped

    if law is ReferenceLaw.IID:
        raise ConfigError("--temperature is that of a recording: give --law calibrated or recorded, or leave it away")
    try:
        check_shipped(temperature)
    except ValueError as error:
        raise ConfigError(f"--temperature: {error}") from error


def _check_figure(figure: Path, *, ablate: bool) -> None:
    """What is wrong is better said before minutes have gone by."""
    if ablate:
        raise ConfigError("--figure draws no ablations: leave --ablate away")
    check_svg(figure)


def _draw(report: dict[str, Any], figure: Path) -> None:
    from wanspec_p2p.simulation.reference_figure import draw

    write_pictures(figure, draw(report))


def _play(plans: dict[str, Plan], rules: Rules, processes: int, *, ideal: bool) -> dict[str, dict[str, Any]]:
    from wanspec_p2p.simulation.experiment import compared
    from wanspec_p2p.simulation.plays import played_as_wanted
    from wanspec_p2p.simulation.racing import IDEAL_CHALLENGERS, wanted_by_all

    if ideal:
        rules = replace(rules, challengers=IDEAL_CHALLENGERS)
    with progress_bars() as progress:
        results = played_as_wanted(
            functools.partial(wanted_by_all, tuple(plans.values()), rules),
            processes=processes,
            progress=lambda step, done, of: progress(f"play, step {step}", done, of),
            ideal=ideal,
        )
    return {name: compared(plan, results) for name, plan in plans.items()}


def _show(report: dict[str, Any], found: dict[str, dict[str, Any]], shown: Sequence[str]) -> None:
    how = "calculated for ideal drafters" if report.get("ideal") else "in virtual time"
    say(f"{report['command']}, {report['date']}: {counted(report['seeds'], 'answer')} of each setting, {how}")
    for name, own in found.items():
        say(f"\n{name}" if name else "")
        for kind, alone in own["baselines"].items():
            say(
                f"{kind} at the target, {counted(alone['passes'], 'pass', 'passes')} a round: "
                f"{alone['ms_per_token']:.2f} ms and {alone['passes_per_token']:.2f} draft passes a token"
            )
        for kind, ratios in (("tree", own), ("chain", own["chain_baseline"])):
            _table(kind, own["rtt_ms"], {key: ratios[key] for key in own["chain_baseline"]})
        for policy in shown:
            _show_policy(policy, own)


def _show_policy(policy: str, own: dict[str, Any]) -> None:
    """Against the tree, by distance: latency, and the share of its draft passes that the target is spared."""
    tree = own["baselines"]["tree"]
    say(f"{policy}, against the tree: latency (offload) at {listed(own['rtt_ms'])} ms")
    for drafters, measured in own["measured"].items():
        cells = [
            f"{cell['ms_per_token'] / tree['ms_per_token']:.2f}"
            f" ({1.0 - cell['passes_per_token'] / tree['passes_per_token']:.0%})"
            for cell in measured.get(policy, ())  # none where the gate is off
        ]
        say(f"{drafters:>17}  {'  '.join(cells)}")


def _table(baseline: str, rtt_ms: list[float], found: dict[str, dict[str, list[float]]]) -> None:
    """Latency is a ratio to the baseline's; offload is the share of its draft passes that the target is spared; what
    nodes run instead are draft passes a token, of the default."""
    say(f"against the {baseline:5}  RTT ms  no local  best  offload at <= 1.00  shipped (offload), passes at nodes")
    for drafters, own in found.items():
        for at, rtt in enumerate(rtt_ms):
            row = {key: values[at] for key, values in own.items()}
            say(
                f"{drafters:>17}  {rtt:6g}  {row['no_local_latency_ratio']:8.2f}  {row['best_latency_ratio']:4.2f}"
                f"  {row['offload_at_equal_latency']:18.0%}"
                f"  {row['shipped_latency_ratio']:7.2f} ({row['shipped_offload']:.0%}), "
                f"{row['shipped_node_passes_per_token']:.1f}"
            )


@app.command()
def faults(
    count: Annotated[int, typer.Option(help="Schedules to play.", min=1, max=1_000_000)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the first schedule; the others follow.", min=0, max=LARGEST_SEED)] = 0,
    json: Json = False,
) -> None:
    """Play answers while nodes lie, repeat, stall, part and die; fail if any text is not the target's own."""
    from wanspec_p2p.simulation.faults import KINDS, LAWS, play_faults

    wrong: list[int] = []
    struck, seconds = 0, 0.0
    laws, nodes = dict.fromkeys(LAWS, 0), dict.fromkeys(KINDS, 0)
    sampling = {"greedy": 0, "sampled": 0}
    with progress_bars() as progress:
        for done in range(count):
            try:
                schedule = play_faults(seed + done)
            except Exception as error:
                raise EngineError(
                    f"seed {seed + done} could not be played to its end: {error or repr(error)}"
                ) from error
            struck, seconds = struck + schedule.events, seconds + schedule.seconds
            laws[schedule.law] += 1
            sampling["greedy" if schedule.sampling.greedy else "sampled"] += 1
            for kind in schedule.nodes:
                nodes[kind] += 1
            if not schedule.exact:
                wrong.append(schedule.seed)
            progress("play", done + 1, count)
    report = {
        "schedules": count,
        "first_seed": seed,
        "laws": laws,
        "sampling": sampling,
        "nodes": nodes,
        "faults": struck,
        "virtual_seconds": seconds,
        "wrong_seeds": wrong,
    }
    if json:
        emit(report)
    else:
        schedules, found = counted(count, "schedule"), counted(struck, "fault")
        how = ", ".join(f"{number} {kind}" for kind, number in sampling.items())
        virtual = counted(round(seconds), "virtual second")
        say(f"{schedules} from seed {seed} ({how}), {found} in {virtual}: {len(wrong)} wrong")
    if wrong:
        raise EngineError(f"the text was not the target's own with seeds {', '.join(map(str, wrong[:10]))}")


app.command()(capacity)
app.command()(clients)
app.command()(run)
app.command()(adversity)
app.command()(paper)
app.command()(swarm)
