"""`wanspec sim swarm`: an hour of a whole network in virtual time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import LARGEST_SEED, today
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import EngineError
from wanspec_p2p.protocol.limits import MAX_DRAFTERS
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.simulation.swarm_report import SwarmReport, Waits

__all__ = ["swarm"]

MAX_NODES, MAX_TARGETS = 100_000, 1000
LONGEST_HOURS = 1000.0


def swarm(
    nodes: Annotated[int, typer.Option(help="Nodes, here or away.", min=1, max=MAX_NODES)] = 1000,
    hours: Annotated[float, typer.Option(help="Virtual time.", min=0.02, max=LONGEST_HOURS)] = 1.0,
    targets: Annotated[int, typer.Option(help="Targets; they stay.", min=1, max=MAX_TARGETS)] = 10,
    drafters: Annotated[int, typer.Option(help="Drafters of a target.", min=1, max=MAX_DRAFTERS)] = 2,
    stay: Annotated[float, typer.Option(help="Mean minutes of a node's stay.", min=0.1, max=1e6)] = 20.0,
    away: Annotated[float, typer.Option(help="Mean minutes until it comes again.", min=0.01, max=1e6)] = 2.0,
    answers: Annotated[float, typer.Option(help="Answers a minute, of all targets.", min=0.01, max=1e4)] = 10.0,
    tokens: Annotated[int, typer.Option(help="Of an answer.", min=1, max=4096)] = 64,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0, max=LARGEST_SEED)] = 0,
    json: Json = False,
) -> None:
    """Play a network whose nodes come and go; fail if an answer is wrong or anything is left behind."""
    from wanspec_p2p.simulation.swarm_churn import Churn
    from wanspec_p2p.simulation.swarm_hour import SwarmHour, play_swarm

    hour = SwarmHour(
        nodes=nodes,
        targets=targets,
        seconds=3600.0 * hours,
        drafters=drafters,
        churn=Churn(stay=60.0 * stay, away=60.0 * away, polite=0.5, silent=0.5),
        answers=answers,
        tokens=tokens,
    )
    clock = SystemClock()
    begun = clock.monotonic()
    with progress_bars() as progress:
        report = play_swarm(hour, seed, progress=lambda gone, of: progress("play", gone, of))
    seconds = clock.monotonic() - begun
    command = (
        f"wanspec sim swarm --nodes {nodes} --hours {hours:.15g} --targets {targets} --drafters {drafters} "
        f"--stay {stay:.15g} --away {away:.15g} --answers {answers:.15g} --tokens {tokens} --seed {seed}"
    )
    if json:
        emit(
            {"version": __version__, "date": today(), "command": command, "wall_seconds": round(seconds, 1)}
            | _rates(report)
            | asdict(report)
        )
    else:
        say(f"{command}, {today()}: {report.virtual_seconds:.0f} virtual seconds in {seconds:.0f}")
        _show(report)
    if not report.flawless:
        raise EngineError("an answer was not the target's own, or something was left behind: see the report")


def _rates(report: SwarmReport) -> dict[str, Any]:
    """Messages a second at the coordinator, with pings and handshakes."""
    of = {"received": report.received, "sent": report.sent}
    return {f"{way}_per_second": round(sum(kinds.values()) / report.virtual_seconds, 1) for way, kinds in of.items()}


def _show(report: SwarmReport) -> None:
    churn, rates = report.churn, _rates(report)
    say(f"answers       {report.exact} of {report.asked} exact; seconds each: {_waits(report.answers)}")
    for words, count in report.faults.items():
        say(f"  not so      {count}: {words}")
    say(f"nodes         {churn.came} came, {churn.left} left, {churn.died} died, {churn.silent} of them silently")
    ghosts = counted(report.ghosts, "ghost")
    say(f"              {report.here} here, {report.registered} registered, {ghosts} at the worst")
    if report.missing:
        say(f"              {report.missing} not registered at the worst")
    say(f"matches       {counted(report.matches, 'drafter')} attached")
    say(f"leases        {report.leases_issued} issued, {report.leases_ended} ended, {report.leases_left} left")
    for how, waits in report.replaced.items():
        say(f"replaced      seconds after a drafter {_HOW[how]}: {_waits(waits)}")
    say(f"not replaced  {report.unreplaced}")
    error = "nothing to compare" if report.rtt_error is None else f"{report.rtt_error:.0%} off in the median"
    say(f"round trips   {report.pairs_checked} predicted before they were measured: {error}")
    say(f"coordinator   {rates['received_per_second']} messages a second received, {rates['sent_per_second']} sent")
    say(f"left behind   {counted(report.tasks_left, 'task')}, {counted(report.links_left, 'link')}")
    say(f"trace         {report.trace}")


_HOW = {"left": "left", "died": "died", "silent": "went silent", "let go": "was let go of"}


def _waits(waits: Waits) -> str:
    if not waits.count:
        return "none"
    return f"median {waits.median:g}, p95 {waits.p95:g}, longest {waits.longest:g} ({waits.count})"
