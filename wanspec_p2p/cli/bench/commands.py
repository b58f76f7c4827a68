"""The commands of `wanspec bench`. What measures is imported when it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p.cli.output import Json, Progress, emit, progress_bars, say
from wanspec_p2p.cli.peer_options import DtypeOption, Threads
from wanspec_p2p.errors import ConfigError, ExitCode
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.cli.bench.exactness import Condition, Outcome
    from wanspec_p2p.cli.bench.measuring import Prompt
    from wanspec_p2p.cli.processes import Fleet

__all__ = ["app"]

app = typer.Typer(help="Measure: every figure of the documentation comes from here.", no_args_is_help=True)


@app.callback()
def _quiet_logs() -> None:
    # Parts of services run in this very process: unconfigured, structlog would print what they do into the report.
    import logging

    from wanspec_p2p import logs

    logs.configure(json=False, level=logging.WARNING)


PromptFile = Annotated[
    Path | None, typer.Option("--prompts", help="JSON lines with `prompt` or `turns`; tests/data/prompts.jsonl.")
]
Tokens = Annotated[int, typer.Option(help="Length of each answer.", min=4)]
TargetModel = Annotated[str, typer.Option("--model", help="The target's model.")]
DrafterModel = Annotated[str, typer.Option("--drafter", help="The honest nodes' model.")]


@app.command()
def exactness(
    prompts: PromptFile = None,
    count: Annotated[int, typer.Option(help="Prompts, spread over the file.", min=1)] = 24,
    tokens: Tokens = 64,
    model: TargetModel = "smollm2-135m",
    drafter: DrafterModel = "smollm2-draft",
    local_drafter: Annotated[
        str | None,
        typer.Option(help="A drafter of the target's own, under every condition.", metavar="MODEL"),
    ] = None,
    condition: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    json: Json = False,
) -> None:
    """Compare every token with the target alone under every condition: real processes, real kills."""
    from wanspec_p2p.cli.bench.exactness import Condition
    from wanspec_p2p.cli.bench.measuring import load_prompts

    conditions = tuple(Condition) if condition is None else tuple(_condition(text) for text in condition)
    chosen = load_prompts(prompts, count)
    with progress_bars() as progress:
        outcomes = asyncio.run(_exactness(chosen, tokens, model, drafter, local_drafter, conditions, progress))
    if json:
        emit([asdict(outcome) | {"identical": outcome.identical} for outcome in outcomes])
    else:
        _say_outcomes(outcomes, local_drafter)
    if not all(outcome.identical for outcome in outcomes):
        raise typer.Exit(ExitCode.NOT_IDENTICAL)


def _say_outcomes(outcomes: Sequence[Outcome], local_drafter: str | None) -> None:
    own = () if local_drafter is None else ("first from nodes", "draft passes at the target")
    if own:
        say(f"The target has a drafter of its own, {local_drafter}; alone it had none.\n")
    columns = ("condition", "temperature", "answers", "tokens", "rounds", "accepted per round", *own, "identical")
    say(f"| {' | '.join(columns)} |")
    say("|---" * len(columns) + "|")
    for o in outcomes:
        said = "yes" if o.identical else f"no: {counted(len(o.differences), 'answer differs', 'answers differ')}"
        per_round = f"{o.accepted / o.rounds:.2f}" if o.rounds else "-"
        also = (o.won_by_nodes, o.target_draft_passes) if own else ()
        cells = (o.condition, f"{o.temperature:g}", o.answers, o.tokens, o.rounds, per_round, *also, said)
        say(f"| {' | '.join(map(str, cells))} |")


def _condition(text: str) -> Condition:
    from wanspec_p2p.cli.bench.exactness import Condition

    try:
        return Condition(text)
    except ValueError:
        raise ConfigError(f"--condition {text!r} is none of: {', '.join(Condition)}") from None


async def _exactness(
    prompts: list[Prompt],
    tokens: int,
    model: str,
    drafter: str,
    local_drafter: str | None,
    conditions: Sequence[Condition],
    progress: Progress,
) -> list[Outcome]:
    from wanspec_p2p.cli.bench.cluster import Cluster
    from wanspec_p2p.cli.bench.exactness import compare
    from wanspec_p2p.cli.processes import with_fleet
    from wanspec_p2p.client import AsyncClient
    from wanspec_p2p.config import Paths

    cache = Paths.from_environment(os.environ).cache

    async def work(fleet: Fleet, directory: Path, environment: Mapping[str, str]) -> list[Outcome]:
        async with (
            Cluster.running(fleet, directory, environment, cache=cache, model=model, drafter=drafter) as cluster,
            AsyncClient(cluster.url) as client,
        ):
            return await compare(
                cluster,
                client,
                prompts,
                tokens=tokens,
                temperatures=(0.0, 0.8),
                conditions=conditions,
                progress=progress,
                model=model,
                local_drafter=local_drafter,
            )

    return await with_fleet("wanspec-bench-", work)


@app.command()
def failover(
    prompts: PromptFile = None,
    points: Annotated[int, typer.Option(help="Strikes of each signal at each kind of process.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the points.")] = 0,
    tokens: Tokens = 48,
    model: TargetModel = "smollm2-135m",
    drafter: DrafterModel = "smollm2-draft",
    victim: Annotated[list[str] | None, typer.Option(help="Only node, coordinator or target; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Kill and stop each kind of process at random points of answers; compare every token, and report the waits."""
    from wanspec_p2p.cli.bench import failover as bench
    from wanspec_p2p.cli.bench.failover_outcome import Victim, markdown, victim_of
    from wanspec_p2p.cli.bench.measuring import load_prompts

    victims = tuple(Victim) if victim is None else tuple(victim_of(text) for text in victim)
    chosen = load_prompts(prompts, 4)
    with progress_bars() as progress:
        outcomes = asyncio.run(
            bench.run(
                chosen,
                victims=victims,
                points=points,
                tokens=tokens,
                model=model,
                drafter=drafter,
                seed=seed,
                progress=progress,
            )
        )
    if json:
        emit([asdict(outcome) for outcome in outcomes])
    else:
        say(markdown(outcomes))
    if any(outcome.different for outcome in outcomes):
        raise typer.Exit(ExitCode.NOT_IDENTICAL)


@app.command()
def streams(
    streams: Annotated[int, typer.Option(help="Answers under way at once.", min=1, max=4096)] = 200,
    minutes: Annotated[float, typer.Option(help="How long.", min=0.1)] = 10.0,
    tokens: Tokens = 64,
    verify: Annotated[float, typer.Option(help="Seconds of a model's pass over 64 rows.", min=0.001)] = 0.25,
    seed: Annotated[int, typer.Option(help="Of the text the model says.")] = 0,
    json: Json = False,
) -> None:
    """Many streams at one coordinator and one target whose model only takes time: right, honest, healthy, flat?"""
    from wanspec_p2p.cli.bench import streams as bench

    outcome = asyncio.run(bench.run(streams=streams, minutes=minutes, tokens=tokens, seed=seed, verify=verify))
    _say_figures(bench.report(outcome), json)
    if outcome.failed:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long.", min=0.1)] = 120.0,
    nodes: Annotated[int, typer.Option(help="Places for nodes, each taken by one after another.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Of who stays how long and how each leaves.")] = 0,
    json: Json = False,
) -> None:
    """Nodes join and leave every few seconds, half of them killed; nothing of them may stay behind."""
    from wanspec_p2p.cli.bench import soak as bench

    outcome = asyncio.run(bench.run(minutes=minutes, nodes=nodes, seed=seed))
    _say_figures(bench.report(outcome), json)
    if outcome.failed:
        raise typer.Exit(ExitCode.FAILURE)


def _say_figures(figures: dict[str, Any], json: bool) -> None:
    if json:
        emit(figures)
        return
    say("| figure | value |")
    say("|---|---|")
    for name, value in figures.items():
        say(f"| {name.replace('_', ' ')} | {value} |")


@app.command()
def speed(
    prompts: PromptFile = None,
    count: Annotated[int, typer.Option(help="Prompts, spread over the file.", min=1)] = 8,
    tokens: Tokens = 64,
    model: TargetModel = "smollm2-135m",
    drafter: DrafterModel = "smollm2-draft",
    threads: Threads = None,
    dtype: DtypeOption = None,
    json: Json = False,
) -> None:
    """The target alone against transformers, what exactness costs and company gains, our own time, wire bytes."""
    from wanspec_p2p.cli.bench.measuring import load_prompts
    from wanspec_p2p.cli.bench.report import machine, markdown

    chosen = load_prompts(prompts, count)
    with progress_bars() as progress:
        figures = asyncio.run(_speed(chosen, tokens, model, drafter, threads, dtype, progress))
    report = {"machine": machine(), **figures}
    if json:
        emit(report)
    else:
        say(markdown(report))


async def _speed(
    prompts: list[Prompt], tokens: int, model: str, drafter: str, threads: int | None, dtype: Any, progress: Progress
) -> dict[str, Any]:
    from wanspec_p2p.cli.bench import speed as measure
    from wanspec_p2p.cli.bench import wire
    from wanspec_p2p.cli.settings import model_cache
    from wanspec_p2p.models.loading import load_language_model, load_tokenizer
    from wanspec_p2p.types import Dtype, Sampling

    catalog = model_cache(progress)
    count = threads or os.cpu_count() or 1
    tokenizer = load_tokenizer(model, catalog=catalog)
    directory = catalog.path(model)
    kinds = [dtype] if dtype is not None else [Dtype.BFLOAT16, Dtype.FLOAT32]
    figures: dict[str, Any] = {"model": model, "threads": count, "tokens": tokens, "engines": []}
    for kind in kinds:
        exact = await load_language_model(model, catalog=catalog, threads=count, dtype=kind, copying=False)
        fast = await load_language_model(model, catalog=catalog, threads=count, dtype=kind, fast=True, copying=False)
        against = await measure.target_against_transformers(
            exact, tokenizer, directory, prompts, tokens=tokens, dtype=kind, threads=count, progress=progress
        )
        figures["engines"].append(
            {
                "dtype": kind.value,
                "exactness": exact.info.exactness.value,
                "engine": exact.info.engine,
                "against_transformers": against.as_json(),
                "cost_of_exactness": await measure.cost_of_exactness(exact, fast, progress),
                "gain_of_company": await measure.gain_of_company(exact, progress),
                "own_time": await measure.own_time(exact, tokenizer, prompts, tokens=tokens, progress=progress),
            }
        )
        await fast.close()
        if kind is kinds[0]:
            draft = await load_language_model(drafter, catalog=catalog, threads=1, dtype=kind)
            figures["drafter"] = drafter
            figures["wire"] = [
                {
                    "temperature": temperature,
                    **(
                        await wire.measure(
                            exact, draft, tokenizer, prompts, tokens=tokens, sampling=Sampling(temperature=temperature)
                        )
                    ).as_json(),
                }
                for temperature in (0.0, 0.8)
            ]
            await draft.close()
        await exact.close()
    return figures
