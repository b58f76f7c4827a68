"""`wanspec sim adversity` and `wanspec sim paper`: what bad and lost nodes cost, and the setting of WANSpec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import check_svg, listed, numbers, today, write_pictures
from wanspec_p2p.cli.output import Json, emit, progress_bars, say
from wanspec_p2p.words import counted

__all__ = ["adversity", "paper"]

SEEDS = 4
LONGEST_RTT_MS = 10_000.0


def adversity(
    seeds: Annotated[int, typer.Option(help="Plays of each line.", min=1, max=1000)] = SEEDS,
    tokens: Annotated[int, typer.Option(help="Of an answer; four times as many under churn.", min=8, max=4096)] = 256,
    json: Json = False,
) -> None:
    """Say what lying, silent, far, flapping, poor, slow and lost nodes cost, and whether each promise is kept."""
    from wanspec_p2p.simulation.adversity import Adversity, study

    with progress_bars() as progress:
        found = study(Adversity(tokens), seeds, progress)
    command = f"wanspec sim adversity --seeds {seeds} --tokens {tokens}"
    if json:
        emit({"version": __version__, "date": today(), "command": command, "seeds": seeds, **found})
        return
    say(f"{command}, {today()}: the shipped code in virtual time")
    _never_slower(found["never_slower"])
    _beside_good(found["beside_good"])
    _better_later(found["better_later"])
    _churn(found["churn"])
    _killed(found["killed"])


def _never_slower(lines: list[dict[str, Any]]) -> None:
    say("\nnever slower: two drafters, 10 ms away; nothing learned beforehand")
    say(f"{'both drafters':>14}  at the target  ms/token  alone  promise                    measured  kept")
    for line in lines:
        local = line["local_drafter"]
        promise, measured = (
            ("latency at most 1.02 × alone", line["latency_ratio"])
            if local
            else ("speed at least 0.97 × alone", line["speed_ratio"])
        )
        say(
            f"{line['drafters']:>14}  {'a drafter' if local else 'none':13}  {line['ms_per_token']:8.2f}"
            f"  {line['alone_ms_per_token']:5.2f}  {promise:28} {measured:5.3f}  {_kept(line)}"
        )
    tree = next(line["tree_ms_per_token"] for line in lines if line["local_drafter"])  # the same for all of them
    say(f"the best tree at the target, its passes chosen with hindsight, takes {tree:.2f} ms/token")


def _beside_good(lines: list[dict[str, Any]]) -> None:
    say("\nbeside good ones: four nodes attached, 10 ms away, two of them good; the second answer")
    say(f"{'the other two':>14}  at the target  ms/token  good alone  cost    allowed  kept")
    for line in lines:
        local = "a drafter" if line["local_drafter"] else "none"
        say(
            f"{line['drafters']:>14}  {local:13}  {line['ms_per_token']:8.2f}  {line['good_ms_per_token']:10.2f}"
            f"  {_cost(line)}  {line['allowed']:7.0%}  {_kept(line)}"
        )


def _better_later(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        say(
            f"\nbetter ones later: a target has two nodes {line['far_rtt_ms']:g} ms away, and four are idle that are"
            f" {line['near_rtt_ms']:g} ms away"
        )
        minutes, near = line["ms_per_token_by_minute"], line["near_ms_per_token_by_minute"]
        say(f"{'minute':24}" + "".join(f"{number:7}" for number in range(1, len(minutes) + 1)))
        say(f"{'ms/token':24}" + "".join(f"{ms:7.2f}" for ms in minutes))
        say(f"{'near ones from the first':24}" + "".join(f"{ms:7.2f}" for ms in near))
        say(f"cost in the last minute {_cost(line).strip()}, allowed {line['allowed']:.0%}: {_kept(line)}")


def _churn(lines: list[dict[str, Any]]) -> None:
    say("\nchurn: two drafters, 30 ms away, each lost in a round with a chance; the node in its place …")
    say("chance  place taken by a node that   at the target  lost  ms/token  steady  cost    allowed  kept")
    for line in lines:
        local = "a drafter" if line["local_drafter"] else "none"
        say(
            f"{line['loss_per_round']:<6g}  {line['replacement']:27}  {local:13}"
            f"  {line['lost']:4}  {line['ms_per_token']:8.2f}  {line['steady_ms_per_token']:6.2f}  {_cost(line)}"
            f"  {line['allowed']:7.0%}  {_kept(line)}"
        )


def _killed(lines: list[dict[str, Any]]) -> None:
    say("\n30 % of 20 nodes killed at once, eight answers under way; no drafter at the target, 30 ms")
    for line in lines:
        say(
            f"{line['played']}: {line['complete_and_identical']} of {line['answers']} answers whole and identical,"
            f" {counted(line['lost'], 'node')} lost; {line['tokens_per_second']:.0f} tokens/s,"
            f" {line['unharmed_tokens_per_second']:.0f} with nobody killed: {_kept(line)}"
        )


def _cost(line: dict[str, Any]) -> str:
    return f"{round(line['cost'], 3) + 0.0:6.1%}"  # no minus before a zero


def _kept(line: dict[str, Any]) -> str:
    return "kept" if line["kept"] else "NOT KEPT"


def paper(
    seeds: Annotated[int, typer.Option(help="Answers of each setting.", min=1, max=1000)] = SEEDS,
    rtt: Annotated[str | None, typer.Option(help="Round trips in milliseconds, with commas.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that play at the same time.", min=1, max=256)] = 2,
    figure: Annotated[
        Path | None, typer.Option(help="SVG file to draw into, a PNG beside it; needs matplotlib.")
    ] = None,
    json: Json = False,
) -> None:
    """Play the setting of WANSpec (arXiv 2602.18931): one worker, a chain, a gate; a reconstruction."""
    from wanspec_p2p.simulation.paper import RTT_MS, plans, report, settings
    from wanspec_p2p.simulation.plays import played

    if figure is not None:
        check_svg(figure)
    distances = RTT_MS if rtt is None else numbers("--rtt", rtt, 0.0, LONGEST_RTT_MS)
    chosen = plans(distances)
    with progress_bars() as progress:
        results = played(settings(chosen), seeds, processes=jobs, progress=lambda done, of: progress("play", done, of))
    command = f"wanspec sim paper --seeds {seeds} --rtt {listed(distances)}"
    found = {"version": __version__, "date": today(), "command": command, "seeds": seeds, **report(chosen, results)}
    if json:
        emit(found)
    else:
        _show_paper(found)
    if figure is not None:
        _draw(found, figure)


def _draw(found: dict[str, Any], figure: Path) -> None:
    from wanspec_p2p.simulation.paper_figure import draw

    write_pictures(figure, draw(found))


def _show_paper(found: dict[str, Any]) -> None:
    say(f"{found['command']}, {found['date']}: {found['caption']}, in virtual time")
    for law, own in found["laws"].items():
        chain = own["chain"]
        say(
            f"\n{law}; a chain of {chain['passes']} at the target takes {chain['ms_per_token']:.2f} ms and"
            f" {chain['passes_per_token']:.2f} draft passes a token"
        )
        say("RTT ms  no local  best  default (offload)  offload at <= 1.00  at <= 1.05")
        for at, rtt in enumerate(found["rtt_ms"]):
            say(
                f"{rtt:6g}  {own['no_local_latency_ratio'][at]:8.2f}  {own['best_latency_ratio'][at]:4.2f}"
                f"  {own['shipped_latency_ratio'][at]:7.2f} ({own['shipped_offload'][at]:7.0%})"
                f"  {own['offload_at_equal_latency'][at]:18.0%}  {own['offload_few_percent_slower'][at]:10.0%}"
            )
        gate = own["no_worker"]
        say(
            f"no worker, its gate alone: best {gate['best_latency_ratio']:.2f}; offload at <= 1.00"
            f" {gate['offload_at_equal_latency']:.0%}, at <= 1.05 {gate['offload_few_percent_slower']:.0%}"
        )
    say("\nThe paper, as far as its text is known to us:")
    for point in found["published"]:
        say(f"- {point['said']}")
    say(f"- stalls from about {found['stalls_from_ms']:g} ms")
