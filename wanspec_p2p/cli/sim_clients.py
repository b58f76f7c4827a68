"""`wanspec sim clients`: how long a token takes with so many clients at one target."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import listed, numbers, today, whole
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.cli.sim_capacity import (
    LONGEST_RTT_MS,
    MOST_PASSES,
    MOST_ROWS,
    Draft,
    Drafters,
    DraftRows,
    Passes,
    Rtt,
    Seed,
    Share,
    Tokens,
    Verify,
)
from wanspec_p2p.protocol.limits import MAX_DRAFTERS

__all__ = ["clients"]

MOST_CLIENTS = 256


def clients(
    counts: Annotated[str, typer.Option("--clients", help="Numbers of clients, with commas.")] = "1,2,4,8,16,32,64",
    verify: Verify = 30.0,
    verify_rows: Annotated[
        int, typer.Option(help="Drafted tokens up to which it takes no longer.", min=1, max=MOST_ROWS)
    ] = 64,
    draft: Draft = 5.0,
    draft_rows: DraftRows = 64,
    share: Share = 8,
    passes: Passes = "1,2,3,5",
    rtt: Rtt = "0,30",
    drafters: Drafters = "2",
    tokens: Tokens = 64,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say how long a token takes with so many clients at one target: drafted for, drafting by its gate, or plainly."""
    from wanspec_p2p.simulation.capacity_play import Hardware
    from wanspec_p2p.simulation.clients import by_clients

    chosen, tried = whole("--clients", counts, MOST_CLIENTS), whole("--passes", passes, MOST_PASSES)
    distances, remote = numbers("--rtt", rtt, 0.0, LONGEST_RTT_MS), whole("--drafters", drafters, MAX_DRAFTERS)
    with progress_bars() as progress:
        found = by_clients(
            Hardware(verify / 1000.0, draft / 1000.0, draft_rows, share, verify_rows),
            chosen,
            passes=tried,
            rtt_ms=distances,
            drafters=remote,
            tokens=tokens,
            seed=seed,
            played=lambda done, total: progress("play", done, total),
        )
    words = [f"wanspec sim clients --clients {listed(chosen)} --verify {verify:.15g} --verify-rows {verify_rows}"]
    words += [f"--draft {draft:.15g} --draft-rows {draft_rows} --share {share} --passes {listed(tried)}"]
    words += [f"--rtt {listed(distances)} --drafters {listed(remote)} --tokens {tokens} --seed {seed}"]
    report: dict[str, Any] = {"version": __version__, "date": today(), "command": " ".join(words), **found}
    if json:
        emit(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    say(f"{report['command']}, {report['date']}: the shipped code in virtual time")
    say("\nmilliseconds a token, mean over the clients")
    lines = {"clients": report["clients"], "plain decoding": report["plain"], "the gate": report["gate"]}
    lines |= {"best fixed passes": report["fixed"], "  passes × rows": report["fixed_passes"]}
    for name, found in report["remote"].items():
        lines |= {f"{name}, remote alone": found["alone"], f"{name}, beside the gate": found["gate"]}
    for name, values in lines.items():
        say(f"{name:<26}" + "".join(f"{value if isinstance(value, str) else f'{value:g}':>12}" for value in values))
