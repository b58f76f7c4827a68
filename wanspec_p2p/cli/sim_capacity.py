"""`wanspec sim capacity`: how many clients one target serves, by who drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import LARGEST_SEED, check_svg, listed, numbers, today, whole, write_pictures
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.protocol.limits import MAX_DRAFTERS
from wanspec_p2p.words import counted

__all__ = ["capacity"]

LONGEST_RTT_MS = 10_000.0
MOST_PASSES = 16
LONGEST_MS = 10_000.0
MOST_ROWS = 512
MOST_SHARING = 64


Verify: TypeAlias = Annotated[float, typer.Option(help="Milliseconds of a verification.", min=0.1, max=LONGEST_MS)]
Draft: TypeAlias = Annotated[float, typer.Option(help="Milliseconds of a draft pass.", min=0.1, max=LONGEST_MS)]
DraftRows: TypeAlias = Annotated[
    int, typer.Option(help="Rows up to which a draft pass at the target takes no longer.", min=1, max=MOST_ROWS)
]
Share: TypeAlias = Annotated[int, typer.Option(help="Sessions a node drafts for at once.", min=1, max=MOST_SHARING)]
Rtt: TypeAlias = Annotated[str, typer.Option(help="Round trips in milliseconds, with commas.")]
Drafters: TypeAlias = Annotated[str, typer.Option(help="Drafters of an answer, with commas.")]
Passes: TypeAlias = Annotated[str, typer.Option(help="Draft passes a round at the target to try, with commas.")]
Tokens: TypeAlias = Annotated[int, typer.Option(help="Of each answer that count.", min=8, max=4096)]
Seed: TypeAlias = Annotated[int, typer.Option(help="Of the text.", min=0, max=LARGEST_SEED)]


def capacity(
    limit: Annotated[float, typer.Option(help="Milliseconds a token may take (p95).", min=1, max=LONGEST_MS)] = 50.0,
    verify: Verify = 30.0,
    draft: Draft = 5.0,
    draft_rows: DraftRows = 64,
    share: Share = 8,
    rtt: Rtt = "0,30,70,150",
    drafters: Drafters = "1,2,4",
    passes: Passes = "1,2,3,5",
    held: Annotated[
        str, typer.Option(help="Tokens a round for both a chain and remote drafting, with commas; empty for none.")
    ] = "",
    tokens: Tokens = 64,
    seed: Seed = 0,
    figure: Annotated[
        Path | None, typer.Option(help="SVG file to draw into, a PNG beside it; needs matplotlib.")
    ] = None,
    json: Json = False,
) -> None:
    """Find how many clients one target serves at a time per token, drafted for remotely, by itself, or not at all."""
    from wanspec_p2p.simulation.capacity import study
    from wanspec_p2p.simulation.capacity_play import Hardware

    if figure is not None:
        check_svg(figure)
    distances, counts = numbers("--rtt", rtt, 0.0, LONGEST_RTT_MS), whole("--drafters", drafters, MAX_DRAFTERS)
    tried, alike = whole("--passes", passes, MOST_PASSES), whole("--held", held, MOST_PASSES) if held else ()
    plays = 0
    with progress_bars() as progress:

        def played() -> None:
            nonlocal plays
            plays += 1
            progress("play", plays, 0)  # nobody knows how many a search takes

        found = study(
            Hardware(verify / 1000.0, draft / 1000.0, draft_rows, share),
            limit=limit / 1000.0,
            rtt_ms=distances,
            drafters=counts,
            passes=tried,
            held=alike,
            tokens=tokens,
            seed=seed,
            played=played,
        )
    flags = {"limit": limit, "verify": verify, "draft": draft}
    words = ["wanspec sim capacity", *(f"--{name} {value:.15g}" for name, value in flags.items())]
    words += [f"--draft-rows {draft_rows}", f"--share {share}"]
    words += [f"--rtt {listed(distances)}", f"--drafters {listed(counts)}", f"--passes {listed(tried)}"]
    words += [f"--held {listed(alike)}"] if alike else []
    words += [f"--tokens {tokens}", f"--seed {seed}"]
    report: dict[str, Any] = {"version": __version__, "date": today(), "command": " ".join(words)}
    report |= {f"{name}_ms": value for name, value in flags.items()}
    report |= {"draft_rows": draft_rows, "share": share, "tokens": tokens, "seed": seed, **found}
    if json:
        emit(report)
    else:
        _show(report)
    if figure is not None:
        _draw(report, figure)


def _draw(report: dict[str, Any], figure: Path) -> None:
    from wanspec_p2p.simulation.capacity_figure import draw

    write_pictures(figure, draw(report))


def _show(report: dict[str, Any]) -> None:
    say(f"{report['command']}, {report['date']}: the shipped code in virtual time")
    say(f"\nclients of one target at up to {report['limit_ms']:g} ms a token (p95)")
    rows, share = report["draft_rows"], report["share"]
    sharing = counted(share, "session shares", "sessions share")
    say(f"a draft pass at the target is flat up to {counted(rows, 'row')}; {sharing} a node")
    say(f"plain decoding: {report['plain']}")
    for kind, found in report["against"].items():
        tried = ", ".join(
            f"{counted(int(count), 'pass', 'passes')}: {clients}"
            for count, clients in report["baselines"][kind].items()
        )
        say(f"{kind} at the target: {found['clients']} ({tried}); closed form × {found['closed_form']:.2f}")
    gate = report["gate"]
    say(f"a drafter at the target that goes by its gate: {gate['clients']}")
    say("remote  RTT ms  clients  of the chain's  of the tree's  beside the gate")
    for drafters, clients in report["clients"].items():
        for at, rtt in enumerate(report["rtt_ms"]):
            ratios = [found["ratio"][drafters][at] for found in report["against"].values()]
            beside = gate["remote"][drafters][at]
            say(f"{drafters:>6}  {rtt:6g}  {clients[at]:7}  {'  '.join(map(_times, ratios))}  {beside:15}")
    for count, alike in report["held"].items():
        chain, form = alike["chain"], alike["closed_form"]
        say(f"held to {counted(int(count), 'drafted token')} a round (mean): chain {chain}; closed form × {form:.2f}")
        for drafters, clients in alike["clients"].items():
            for at, rtt in enumerate(report["rtt_ms"]):
                say(f"{drafters:>6}  {rtt:6g}  {clients[at]:7}  {_times(alike['ratio'][drafters][at])}")


def _times(ratio: float | None) -> str:
    return f"{'–' if ratio is None else f'{ratio:.2f} ×':>14}"
