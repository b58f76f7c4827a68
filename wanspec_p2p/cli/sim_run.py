"""`wanspec sim run`: a scenario file, played by the shipped code in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli.figures import today
from wanspec_p2p.cli.output import Json, emit, printable, progress_bars, say
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.simulation.scenario_play import Outcome

__all__ = ["run"]


def run(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO", help="TOML file: see docs/reference/cli.md.")],
    seeds: Annotated[int | None, typer.Option(help="Plays; by default as the file says.", min=1, max=1000)] = None,
    json: Json = False,
) -> None:
    """Play a scenario file, beside the same target alone."""
    from wanspec_p2p.simulation.scenario_file import read_scenario
    from wanspec_p2p.simulation.scenario_play import alone, best_tree, played, policy_of, total, trees

    wanted = read_scenario(scenario)
    chosen = seeds or wanted.seeds
    own, plain = (wanted, policy_of(wanted)), (alone(wanted, local=False), policy_of(wanted))
    with progress_bars() as progress:
        results = played((plain, own, *trees(wanted).values()), chosen, lambda done, of: progress("play", done, of))
    best, best_alone = best_tree(wanted, results)
    rows = {
        "target alone": total(results[plain]),
        f"tree at the target, {counted(best, 'pass', 'passes')} a round": best_alone,
        "scenario": total(results[own]),
    }
    without, tree, found = rows.values()
    if json:
        emit(
            {
                "version": __version__,
                "date": today(),
                "command": f"wanspec sim run {scenario} --seeds {chosen}",
                "seeds": chosen,
                "synthetic": wanted.observed is not None and wanted.observed.synthetic,
                "scenario": _figures(found, without, tree),
                "alone": _figures(without, without, tree),
                "tree": {"passes": best, **_figures(tree, without, tree)},
            }
        )
        return
    say(printable(f"wanspec sim run {scenario} --seeds {chosen}, {today()}: the shipped code in virtual time"))
    if wanted.observed is not None:
        told = "synthetic: made up" if wanted.observed.synthetic else "as observed"
        say(f"The delays are {told}, from {wanted.observed.begun:%Y-%m-%d} to {wanted.observed.ended:%Y-%m-%d}.")
    _table({name: _figures(row, without, tree) for name, row in rows.items()})


def _figures(own: Outcome, without: Outcome, tree: Outcome) -> dict[str, Any]:
    return {
        "ms_per_token": round(own.per_token * 1e3, 3),
        "against_alone": round(own.per_token / without.per_token, 4),
        "against_tree": round(own.per_token / tree.per_token, 4),
        "tokens_per_second": round(own.tokens_per_second, 2),
        "rounds": own.rounds,
        "accepted_per_round": round(own.accepted / own.rounds, 3),
        "local_passes_per_token": round(own.local_passes / own.tokens, 4),
        "remote_passes_per_token": round(own.remote_passes / own.tokens, 4),
        "lost": own.lost,
    }


def _table(rows: dict[str, dict[str, Any]]) -> None:
    say(
        f"{'':36}  ms/token  ÷ alone  ÷ tree  tokens/s  rounds  accepted/round"
        "  local passes/token  remote passes/token  nodes lost"
    )
    for name, row in rows.items():
        say(
            f"{name:36}  {row['ms_per_token']:8.2f}  {row['against_alone']:7.3f}  {row['against_tree']:6.3f}"
            f"  {row['tokens_per_second']:8.1f}  {row['rounds']:6}  {row['accepted_per_round']:14.2f}"
            f"  {row['local_passes_per_token']:18.2f}  {row['remote_passes_per_token']:19.2f}  {row['lost']:10}"
        )
