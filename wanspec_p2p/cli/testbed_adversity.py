"""`wanspec testbed --adversity` and `--scenario`: bad and lost nodes as real processes, beside the simulator and beside
the same target in peace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import today
from wanspec_p2p.cli.output import emit, printable, progress_bars, say
from wanspec_p2p.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from wanspec_p2p.simulation.testbed_scene import Condition

__all__ = ["play_adversity", "play_file"]

ALL = "all"


def play_adversity(words: str, tokens: int, slow: float, seed: int, *, json: bool) -> None:
    """Args:
        words: of CONDITIONS, with commas; "all" for all of them.

    Raises:
        ConfigError: there is no such word.
        typer.Exit: an answer was not the target's own.
    """
    from wanspec_p2p.simulation.adversity import Adversity
    from wanspec_p2p.simulation.testbed_scene import CONDITIONS, conditions

    chosen = CONDITIONS if words == ALL else tuple(map(str.strip, words.split(",")))
    for number, word in enumerate(chosen):
        if word not in CONDITIONS:
            raise ConfigError(f"--adversity: {word!r} is none of {ALL}, {', '.join(CONDITIONS)}")
        if word in chosen[:number]:
            raise ConfigError(f"--adversity: {word!r} is named twice")
    command = f"wanspec testbed --adversity {words} --tokens {tokens} --slow {slow:.15g} --seed {seed}"
    _report(command, conditions(Adversity(tokens), chosen, slow), seed, json=json)


def play_file(file: Path, slow: float, seed: int, *, json: bool) -> None:
    """Raises:
    ConfigError: the file holds no scenario, or one that only the simulator can play.
    typer.Exit: an answer was not the target's own.
    """
    from wanspec_p2p.simulation.scenario_file import read_scenario
    from wanspec_p2p.simulation.testbed_scene import of_file

    scenario = read_scenario(file)
    try:
        condition = of_file(file.stem, scenario, slow)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    _report(f"wanspec testbed --scenario {file} --slow {slow:.15g} --seed {seed}", [condition], seed, json=json)


def _report(command: str, chosen: Sequence[Condition], seed: int, *, json: bool) -> None:
    report = {"version": __version__, "date": today(), "command": command, **_measured(chosen, seed)}
    if json:
        emit(report)
    else:
        _show(report)
    if not report["identical"]:
        raise typer.Exit(ExitCode.NOT_IDENTICAL)


def _measured(chosen: Sequence[Condition], seed: int) -> dict[str, Any]:
    """The simulator first: while the testbed runs, this machine should have nothing else to do."""
    from wanspec_p2p.cli.testbed_scenario import observe
    from wanspec_p2p.simulation.scenario_play import Outcome, play, policy_of
    from wanspec_p2p.simulation.testbed_scene import Act, Seen, compared, stretched

    acts = dict.fromkeys(act for condition in chosen for act in condition.plays)
    simulated: dict[Act, Outcome] = {}
    observed: list[tuple[Seen, Seen]] = []
    with progress_bars() as progress:
        for scenario, slow in acts:
            simulated[scenario, slow] = play(stretched(scenario, slow), policy_of(scenario), seed, slow)
            progress("simulator", len(simulated), len(acts))
        for condition in chosen:
            base, own = (observe(*act, seed) for act in condition.plays)
            observed.append((base, own))
            progress("testbed", len(observed), len(chosen))
    return compared(chosen, observed, simulated)


def _show(report: dict[str, Any]) -> None:
    """Times are a token's, as if nothing had been stretched; "late" is a pass of the target, and not stretched."""
    say(printable(f"{report['command']}, {report['date']}"))
    say(
        "nodes / beside what            at the target  testbed ms   (ratio)  simulator ms   (ratio)  promise"
        "  kept  offload  simulator  lost  simulator  late ms  machine  text"
    )
    for line in report["conditions"]:
        say(_row(line))
    same = sum(line["identical"] for line in report["conditions"])
    say(f"\n{same} of {len(report['conditions'])}: every answer the target's own, token for token")


def _row(line: dict[str, Any]) -> str:
    own, simulated, most = line["testbed"], line["simulator"], line["latency_at_most"]
    promise = "" if most is None else f"≤ {most:.3f}"
    kept = "" if most is None else "yes" if line["kept"] else "NO"
    return printable(
        f"{line['condition'] + ' / ' + line['against']:29}  {'a drafter' if line['local_drafter'] else 'none':13}"
        f"  {own['ms_per_token']:10.2f}  ({own['latency_ratio']:6.3f})"
        f"  {simulated['ms_per_token']:12.2f}  ({simulated['latency_ratio']:6.3f})  {promise:7}  {kept:4}"
        f"  {_share(own['offload']):>7}  {_share(simulated['offload']):>9}  {own['lost']:4}  {simulated['lost']:9}"
        f"  {line['late_ms_per_pass']:7.2f}  {line['machine']:7.0%}"
        f"  {'identical' if line['identical'] else 'NOT IDENTICAL'}"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
