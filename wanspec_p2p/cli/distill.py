"""`wanspec distill`: a drafter of its own for a target, made from the target alone."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanspec_p2p.cli.output import Json, Progress, emit, progress_bars, say
from wanspec_p2p.cli.peer_options import DtypeOption, Threads
from wanspec_p2p.cli.settings import model_cache
from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.types import Device

if TYPE_CHECKING:
    from wanspec_p2p.models.distill.job import Report
    from wanspec_p2p.models.distill.torch_training import Reading

__all__ = ["distill"]

TELL_EVERY = 30.0


def distill(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A catalog name, a directory, or a hub id.")],
    layers: Annotated[
        str, typer.Option(help="How many of the target's layers, or which: 4, or 0,1,28,29 for these.")
    ] = "4",
    width: Annotated[str, typer.Option(help="Neurons of each MLP, or 'same' as the target's.")] = "same",
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens the target writes to learn from; by default what the device can do.", min=1),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Times they are trained on.", min=0.01, max=1000)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; TARGET-drafter by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what lies in --out.")] = False,
    start: Annotated[
        str | None, typer.Option(help="A drafter of the same target and shape to go on from, not the target's layers.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON lines with `prompt` or `turns`, for the target to answer as well.")
    ] = None,
    unseen: Annotated[
        Path | None, typer.Option(help="The like, to judge on and never to train on; dialogues held back by default.")
    ] = None,
    unseen_count: Annotated[
        int | None, typer.Option(help="So many of the unseen, spread over the file.", min=1)
    ] = None,
    peak: Annotated[float, typer.Option(help="Highest learning rate.", min=1e-6, max=1)] = 2e-3,
    batch: Annotated[int, typer.Option(help="Tokens of a training step.", min=256)] = 4096,
    seed: Annotated[int, typer.Option(help="Of the text, the order and the noise.", min=0, max=2**32 - 1)] = 0,
    device: Annotated[Device | None, typer.Option(help="Where it runs.")] = None,
    dtype: DtypeOption = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train a small drafter for TARGET on text that TARGET writes, and measure what it is worth."""
    folder = out or _default_folder(target)
    _check_parts()
    _check_folder(folder, resume)
    if unseen_count is not None and unseen is None:
        raise ConfigError("--unseen-count counts prompts of --unseen: name a file there")
    from wanspec_p2p.cli.bench.report import in_words
    from wanspec_p2p.models.distill.job import Job
    from wanspec_p2p.models.distill.plan import BUDGETS, Plan
    from wanspec_p2p.models.distill.run import distill as run
    from wanspec_p2p.models.distill.torch_corpus import find_source
    from wanspec_p2p.models.distill.torch_training import Schedule
    from wanspec_p2p.models.prompts import load_prompts
    from wanspec_p2p.models.torch_device import choose_device

    placement = choose_device(device=device, dtype=dtype, threads=threads)
    budget = BUDGETS[placement.device]
    brought = [prompt.text for prompt in load_prompts(prompts, "--prompts")] if prompts else []
    judged_on = load_prompts(unseen, "--unseen", unseen_count) if unseen else []
    try:
        with progress_bars() as bars:
            progress = _told(bars)
            catalog = model_cache(progress)
            source = find_source(target, catalog)
            plan = Plan(
                layers=_layers(layers, source.directory),
                width=_width(width),
                tokens=tokens or budget[0],
                schedule=Schedule(epochs=epochs or budget[1], batch_tokens=batch, peak=peak, seed=seed),
                seed=seed,
                start=start,
            )
            job = Job(
                source=source,
                plan=plan,
                out=folder,
                placement=placement,
                catalog=catalog,
                command=_command(sys.argv[1:]),
                machine=in_words(placement.reason),
                prompts=brought,
                unseen=[(prompt.category, prompt.text) for prompt in judged_on],
            )
            report = run(job, progress, _Teller(bars))
    except KeyboardInterrupt:
        again = "repeat the command with --resume, and it goes on" if _begun(folder) else "nothing was begun"
        typer.echo(f"wanspec: interrupted: {again}", err=True)
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror or error}: mend that and repeat") from error
    _show(report, job.folder, json=json)


def _show(report: Report, folder: Path, *, json: bool) -> None:
    import msgspec

    if json:
        emit(msgspec.to_builtins(report))
        return
    from wanspec_p2p.models.distill.card import figures_table

    say(figures_table(report.judgement.standings))
    say(f"\nThe drafter is ready: {report.drafter} (its card: {folder / 'drafter' / 'README.md'})")
    say(f"Serve it: wanspec node run --model {shlex.quote(report.drafter)}")


def _check_parts() -> None:
    missing = [name for name in ("torch", "transformers", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"distilling needs {', '.join(missing)}: install wanspec-p2p with [distill]")


def _default_folder(target: str) -> Path:
    name = Path(target).resolve().name if Path(target).is_dir() else target.rpartition("/")[2]
    return Path(f"{name}-drafter")


def _check_folder(folder: Path, resume: bool) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--out {folder} is a file: name a folder")
        begun = _begun(folder)
        # What a run that was killed at once leaves counts for nothing.
        foreign = folder.is_dir() and any(file.name[0] != "." and file.name != "corpus" for file in folder.iterdir())
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be read: {error.strerror}") from error
    if foreign and not begun:
        raise ConfigError(f"--out {folder} holds something else: name an empty folder")
    if begun and not resume:
        raise ConfigError(f"--out {folder} holds a run already: add --resume to go on with it, or name another folder")
    if resume and not begun:
        raise ConfigError(f"--resume: there is no run in {folder}: leave --resume out, or name the run's --out")


def _begun(folder: Path) -> bool:
    return (folder / "corpus" / "corpus.json").is_file()


def _layers(text: str, directory: Path) -> tuple[int, ...]:
    from wanspec_p2p.models.directories import read_config
    from wanspec_p2p.models.distill.torch_student import spread_layers

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--layers {text!r} is neither a number nor numbers with commas") from None
    if "," in text:
        return numbers
    total = read_config(directory).get("num_hidden_layers")
    if not isinstance(total, int):
        raise ModelError("this target cannot be distilled: its config.json does not say how many layers it has")
    return spread_layers(numbers[0], total)


def _width(text: str) -> int | None:
    if text == "same":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--width {text!r} is neither a number nor 'same'")
    return int(text)


def _command(arguments: Sequence[str]) -> str:
    """As it was typed, but for folders: where they lie is nobody's business."""
    return "wanspec " + shlex.join(map(_without_folders, arguments))


def _without_folders(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    # What is relative and not there may be a hub id.
    somewhere = os.sep in value and (Path(value).expanduser().is_absolute() or Path(value).exists())
    return flag + equals + (Path(value).name if somewhere else value)


def _told(progress: Progress) -> Progress:
    """Lines on stderr where nobody sees bars."""
    if sys.stderr.isatty():
        return progress
    told: dict[str, tuple[float, int]] = {}

    def tell(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        before, said = told.get(what, (-TELL_EVERY, -1))
        if done != said and (now - before >= TELL_EVERY or done == total):
            told[what] = now, done
            typer.echo(f"{what}: {done:,} of {total:,}" if total else what, err=True)

    return tell


class _Teller:
    """Says how the training goes: a bar, and a line whenever agreement was measured."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, reading: Reading) -> None:
        self._progress("train", reading.step, reading.steps)
        if reading.agreement is not None:
            typer.echo(
                f"train: step {reading.step:,} of {reading.steps:,}, {reading.tokens / 1e6:.2f} M tokens in "
                f"{reading.seconds:.0f} s, loss {reading.loss:.3f}, agreement with the target on dialogues held back "
                f"{reading.agreement:.3f}",
                err=True,
            )
