"""`wanspec record`: what a real pair of models does, for the simulator to go by."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p.cli.figures import check_folder
from wanspec_p2p.cli.output import Json, Progress, emit, progress_bars, say
from wanspec_p2p.cli.peer_options import DtypeOption, Threads
from wanspec_p2p.cli.settings import model_cache
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Dtype
from wanspec_p2p.words import counted

if TYPE_CHECKING:
    from wanspec_p2p.models.base import LanguageModel
    from wanspec_p2p.models.prompts import Prompt
    from wanspec_p2p.simulation.recording import Recording

__all__ = ["record"]


def record(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A catalog name, a directory, or a hub id.")],
    drafter: Annotated[str, typer.Argument(metavar="DRAFTER", help="The like, or ngram:TARGET.")],
    prompts: Annotated[Path, typer.Option(help="JSON lines with `prompt` or `turns`.")],
    count: Annotated[int | None, typer.Option(help="So many of them, spread over the file.", min=1)] = None,
    tokens: Annotated[int, typer.Option(help="Length of an answer at most.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0, max=100)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws, above temperature 0.", min=0, max=2**32 - 1)] = 0,
    out: Annotated[Path | None, typer.Option(help="File; TARGET.DRAFTER.t0.s0.jsonl by default.")] = None,
    threads: Threads = None,
    dtype: DtypeOption = None,
    json: Json = False,
) -> None:
    """Let TARGET answer prompts; store what DRAFTER would have drafted at every position, and how fast both were."""
    from wanspec_p2p.models.prompts import load_prompts
    from wanspec_p2p.simulation.recording import write_recording

    file = out or Path(f"{_short(target)}.{_short(drafter)}.t{temperature:g}.s{seed}.jsonl")
    _check_free(file)
    chosen = load_prompts(prompts, "--prompts", count)
    with progress_bars() as progress:
        recording = asyncio.run(_record(target, drafter, chosen, tokens, temperature, seed, threads, dtype, progress))
    write_recording(file, recording)
    _show(recording, file, json=json)


def _check_free(file: Path) -> None:
    """What is wrong with `--out` is better said before the models have answered."""
    check_folder("--out", file)
    try:
        file.lstat()
    except FileNotFoundError:
        return
    except OSError as error:  # such as a name that is too long
        raise ConfigError(f"--out {file} cannot be written: {error.strerror}") from error
    raise ConfigError(f"--out {file} is there already: name another file, or remove it")


async def _record(
    target: str,
    drafter: str,
    prompts: list[Prompt],
    tokens: int,
    temperature: float,
    seed: int,
    threads: int | None,
    dtype: Dtype | None,
    progress: Progress,
) -> Recording:
    from wanspec_p2p.cli.bench.report import in_words
    from wanspec_p2p.models.loading import load_language_model, load_tokenizer
    from wanspec_p2p.simulation.recorder import record as run

    catalog = model_cache(progress)
    tokenizer = load_tokenizer(target, catalog=catalog)
    asked = [(prompt.id, tokenizer.encode_chat([("user", prompt.text)])) for prompt in prompts]
    async with contextlib.AsyncExitStack() as stack:

        async def load(name: str, *, copying: bool) -> LanguageModel:
            model = await load_language_model(name, catalog=catalog, threads=threads, dtype=dtype, copying=copying)
            stack.push_async_callback(model.close)
            return model

        engine = await load(target, copying=False)
        info = engine.info
        return await run(
            engine,
            await load(drafter, copying=True),
            asked,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
            machine=in_words(f"{info.device}, {info.dtype}, threads: {threads or 'all cores'}"),
            names=(_short(target), _short(drafter)),
            progress=progress,
        )


def _short(name: str) -> str:
    """Where a model lies on this machine is nobody's business."""
    return Path(name).resolve().name if os.path.isdir(name) else name.replace("/", "--").replace(":", "-")


def _show(recording: Recording, file: Path, *, json: bool) -> None:
    judged = recording.judged()
    counts = Counter(position.rank for position in judged)
    header = recording.header
    report: dict[str, Any] = {
        "file": str(file),
        "answers": len(recording.answers),
        "positions": len(judged),
        "ranks": [counts[rank] / len(judged) for rank in (1, 2, 3, 4, 0)],
        "target_seconds": header.target.seconds,
        "drafter_seconds": header.drafter.seconds,
    }
    if json:
        emit(report)
        return
    shares = " / ".join(f"{share:.3f}" for share in report["ranks"])
    answers = counted(report["answers"], "answer")
    say(f"{report['positions']:,} positions of {answers} at temperature {header.temperature:g}")
    say(f"The target's token has rank 1 / 2 / 3 / 4 / none at {shares} of them.")
    for name, model in (("target", header.target), ("drafter", header.drafter)):
        times = ", ".join(f"{rows}: {seconds * 1000:.3g}" for rows, seconds in model.seconds)
        say(f"Milliseconds of a pass of the {name} by rows: {times}")
    say(f"Written: {file}")
