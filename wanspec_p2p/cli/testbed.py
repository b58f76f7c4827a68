"""`wanspec testbed`: real processes at a distance, beside what the simulator says of them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import listed, numbers, today, whole
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.errors import UsageError
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.simulation.testbed import Bed

__all__ = ["testbed"]

LONGEST_RTT_MS = 10_000.0
MOST_DRAFTERS = 8
"""Each is a process of its own."""
WARM_UP = 128
OF_CELLS = ("rtt", "drafters", "jitter", "answers")
"""Flags that mean nothing where a scenario says these things."""


def testbed(
    context: typer.Context,
    rtt: Annotated[str, typer.Option(help="Round trips in milliseconds, with commas.")] = "10,30,70,150",
    drafters: Annotated[str, typer.Option(help="Drafters of an answer, with commas.")] = "1,2",
    jitter: Annotated[str, typer.Option(help="Percent of the delay, with commas.")] = "0,20",
    answers: Annotated[int, typer.Option(help="Of each cell, one after the other.", min=1, max=1000)] = 2,
    tokens: Annotated[int, typer.Option(help="Length of an answer.", min=1, max=4096)] = 256,
    slow: Annotated[float, typer.Option(help="Stretch all times by this.", min=1.0, max=100.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the text and of chance.", min=0)] = 0,
    adversity: Annotated[
        str | None, typer.Option(help="Play bad and lost nodes instead: all, or words with commas.")
    ] = None,
    scenario: Annotated[Path | None, typer.Option(help="Play a scenario file instead.")] = None,
    json: Json = False,
) -> None:
    """Play the reference setting with real processes over TCP that is delayed, and hold the simulator to it."""
    if sys.platform == "win32":
        raise UsageError("the testbed needs Linux or macOS")
    from wanspec_p2p.cli.testbed_adversity import play_adversity, play_file

    if scenario is not None:
        _refuse(context, "--scenario", (*OF_CELLS, "tokens", "adversity"))
        play_file(scenario, slow, seed, json=json)
    elif adversity is not None:
        _refuse(context, "--adversity", OF_CELLS)
        play_adversity(adversity, tokens, slow, seed, json=json)
    else:
        _play_cells(rtt, drafters, jitter, answers, tokens, slow, seed, json=json)


def _refuse(context: typer.Context, flag: str, others: tuple[str, ...]) -> None:
    """Raises UsageError: one of the others was given beside `flag`."""
    for other in others:
        source = context.get_parameter_source(other)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{other} does not go with {flag}, which says that already")


def _play_cells(
    rtt: str, drafters: str, jitter: str, answers: int, tokens: int, slow: float, seed: int, *, json: bool
) -> None:
    from wanspec_p2p.simulation.reference import Setting
    from wanspec_p2p.simulation.testbed import Bed, Cell

    distances = numbers("--rtt", rtt, 0.0, LONGEST_RTT_MS)
    counts = whole("--drafters", drafters, MOST_DRAFTERS)
    jitters = numbers("--jitter", jitter, 0.0, 100.0)
    cells = tuple(Cell(*one) for one in itertools.product(distances, counts, (percent / 100 for percent in jitters)))
    bed = Bed(cells, Setting(tokens=tokens, warm_up=min(WARM_UP, tokens), answers=answers), slow)
    words = f"wanspec testbed --rtt {listed(distances)} --drafters {listed(counts)} --jitter {listed(jitters)}"
    words += f" --answers {answers} --tokens {tokens} --slow {slow:.15g} --seed {seed}"
    report = {"version": __version__, "date": today(), "command": words, **_measured(bed, seed)}
    if json:
        emit(report)
    else:
        _show(report)


def _measured(bed: Bed, seed: int) -> dict[str, Any]:
    """The testbed first: the simulator is to know how long code takes there."""
    from wanspec_p2p.cli.testbed_run import observe
    from wanspec_p2p.simulation.plays import played
    from wanspec_p2p.simulation.testbed import compared, with_real_tree

    of = (len(bed.cells) + 1) * bed.base.answers
    with progress_bars() as progress:
        observed = [
            observe(bed.setting(cell), seed, lambda done, at=at: progress("testbed", at + done, of))  # type: ignore[misc]
            for at, cell in zip(itertools.count(0, bed.base.answers), bed.cells, strict=False)
        ]
        settings = tuple(dict.fromkeys((*bed.with_code(observed).settings, *bed.settings)))
        plays = played(
            settings, 1, first=seed, processes=2, progress=lambda done, all_: progress("simulator", done, all_)
        )
        report = compared(bed, observed, plays)
        best, at = report["baseline"]["passes"], of - bed.base.answers
        tree = observe(bed.trees[best], seed, lambda done: progress("testbed", at + done, of))
    return with_real_tree(report, bed, tree)


def _show(report: dict[str, Any]) -> None:
    """Times are a token's, as if nothing had been stretched; those of code are a pass's, and not stretched."""
    tree, code = report["baseline"], report["code_ms_per_pass"]
    say(f"{report['command']}, {report['date']}")
    real = tree["testbed"]
    say(
        f"tree at the target, {counted(tree['passes'], 'pass', 'passes')} a round: {tree['ms_per_token']:.2f} ms and "
        f"{tree['passes_per_token']:.2f} draft passes a token in the simulator, {real['ms_per_token']:.2f} ms and "
        f"{real['passes_per_token']:.2f} with real processes"
    )
    say(
        f"code takes {code['verify']:.2f} ms a verification, {code['draft']:.2f} ms a draft pass of the target, "
        f"{code['node']:.2f} ms a pass of a node; the simulator with that, and without\n"
    )
    say(
        "RTT ms  drafters  jitter  testbed ms (offload)  simulator ms (offload)  ratio  difference  "
        "without ms (offload)  machine"
    )
    for cell in report["cells"]:
        own, simulated, without = (cell[name] for name in ("testbed", "simulator", "simulator_without_code"))
        say(
            f"{cell['rtt_ms']:6g}  {cell['drafters']:8}  {cell['jitter']:6.0%}"
            f"  {own['ms_per_token']:10.2f} ({own['offload']:7.0%})"
            f"  {simulated['ms_per_token']:12.2f} ({simulated['offload']:7.0%})"
            f"  {cell['latency_ratio']:5.2f}  {cell['offload_difference'] * 100:+7.0f} pp"
            f"  {without['ms_per_token']:10.2f} ({without['offload']:7.0%})  {cell['cores']['machine']:7.0%}"
            f"{'' if cell['within'] else '  apart'}"
        )
    cells = counted(len(report["cells"]), "cell")
    say(f"\n{report['within']} of {cells} within 10 % of latency and 10 points of offload")
