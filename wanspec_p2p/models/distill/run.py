"""From a target to a drafter: it writes, the drafter learns from it, and both are held against each other.

    OUT/corpus/           what the target wrote; shared by every drafter made here
    OUT/answers-….json    its answers to prompts that no drafter is trained on
    OUT/layers-…/         one drafter: plan.json, checkpoint.safetensors, training.jsonl, layers.safetensors, drafter/,
                          report.json, report.svg

Every stage looks at what lies there and does the rest, so that a killed run loses minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from wanspec_p2p.errors import ConfigError, EngineError, ModelError
from wanspec_p2p.locking import file_lock
from wanspec_p2p.models.copying import COPYING_FILE
from wanspec_p2p.models.directories import named_size, read_config
from wanspec_p2p.models.distill.card import write_card
from wanspec_p2p.models.distill.corpus import Corpus, Dialogue
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.models.distill.job import Job, Report
from wanspec_p2p.models.distill.judge import Contender, judge
from wanspec_p2p.models.distill.plan import check_plan, check_room, store_plan, training_bytes
from wanspec_p2p.models.distill.torch_answers import ask_target, brought_prompts, held_back_prompts
from wanspec_p2p.models.distill.torch_checkpoint import Checkpoints
from wanspec_p2p.models.distill.torch_copying import fit_copying
from wanspec_p2p.models.distill.torch_corpus import cache_bytes, fill_corpus, recipe_for
from wanspec_p2p.models.distill.torch_student import build_student, load_layers, store_drafter
from wanspec_p2p.models.distill.torch_training import Reading, Trainer, held_back
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.pull import Progress
from wanspec_p2p.types import Device

__all__ = ["distill"]

CHECKPOINT_FILE = "checkpoint.safetensors"


def distill(job: Job, progress: Progress, tell: Callable[[Reading], None]) -> Report:
    """Make the drafter.

    Args:
        tell: told what the training says of itself.

    Raises:
        ConfigError, ModelError, EngineError: one line each.
    """
    # First all that can be refused, before hours of writing.
    recipe = recipe_for(job.source, seed=job.plan.seed, device=job.placement.device, prompts=job.prompts)
    corpus = Corpus(job.out / "corpus", recipe)
    check_plan(job.folder, job.folder / CHECKPOINT_FILE, job.plan)
    _check_room(job, corpus)
    torch.set_num_threads(job.placement.threads)
    with _memory_told(job):
        student = _student(job)
        prompts = brought_prompts(job)
        fill_corpus(
            corpus,
            job.source,
            tokens=job.plan.tokens,
            placement=job.placement,
            prompts=job.prompts,
            progress=progress,
        )
        dialogues = list(corpus.dialogues(tokens=job.plan.tokens))
        answers = ask_target(job, prompts or held_back_prompts(job, dialogues), progress)
        untrained = job.folder / "untrained"
        with file_lock(job.folder / ".lock", lambda: progress(f"wait for another run: {job.plan.name}", 0, 0)):
            try:
                store_drafter(_untrained(job, student), job.source.directory, untrained / "drafter")
                curve, trained = _train(job, student, dialogues, tell)
                drafter = job.folder / "drafter"
                _store_copying(student, dialogues, drafter)
                store_drafter(student, job.source.directory, drafter)
                judgement = asyncio.run(
                    judge(
                        _drafters(job, drafter, untrained / "drafter"),
                        str(job.source.directory),
                        answers,
                        catalog=job.catalog,
                        placement=job.placement,
                        progress=progress,
                    )
                )
            finally:
                shutil.rmtree(untrained, ignore_errors=True)
            report = Report(
                target=job.source.name,
                target_digest=job.source.digest,
                plan=job.plan,
                generated=sum(dialogue.generated for dialogue in dialogues),
                brought=len(job.prompts),
                dialogues=len(dialogues),
                trained=trained,
                curve=tuple(curve),
                judgement=judgement,
                command=job.command,
                machine=job.machine,
                drafter=str(drafter),
            )
            replace_file(job.folder / "report.json", msgspec.json.format(msgspec.json.encode(report)))
            write_card(report, job.folder, read_config(job.source.directory))
    return report


def _check_room(job: Job, corpus: Corpus) -> None:
    recipe, written = corpus.recipe, corpus.generated()
    # An accelerator has memory of its own, and the number of rows heeds it.
    config = read_config(job.source.directory)
    here = written < job.plan.tokens and job.placement.device is not Device.CUDA
    caches = cache_bytes(config, rows=recipe.rows, context=recipe.context) if here else 0
    if job.placement.device is Device.CPU:
        caches = max(caches, training_bytes(job.plan, hidden=named_size(config, "hidden_size") or 0))
    check_room(
        job.out, tokens=job.plan.tokens, written=written, weights=4 * _parameters(job.source.directory), caches=caches
    )


def _parameters(directory: Path) -> int:
    count = 0
    try:
        for file in directory.glob("*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    size = 1
                    for side in opened.get_slice(name).get_shape():
                        size *= side
                    count += size
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{directory} cannot be loaded: {error}") from error
    return count


@contextlib.contextmanager
def _memory_told(job: Job) -> Iterator[None]:
    """One line where memory runs out after all."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch says so in words of its own on a CPU and on a Mac.
        if type(error) is RuntimeError and not re.search("allocate memory|out of memory", str(error)):
            raise
        raise EngineError(
            f"out of memory on {job.placement.device}: end other programs, or take a smaller --batch or another "
            "--device; with --resume it goes on where it stopped"
        ) from error


def _student(job: Job) -> Any:
    plan, source = job.plan, job.source
    student = build_student(source.directory, layers=plan.layers, width=plan.width, device=job.placement.device)
    if plan.start is not None:
        start = job.catalog.path(plan.start)
        if tokenizer_facts(start).fingerprint != source.tokenizer:
            raise ConfigError(f"--start {plan.start} does not fit: its tokenizer is not that of {source.name}")
        load_layers(student, start)
    return student


def _untrained(job: Job, student: Any) -> Any:
    """The drafter's layers as the target has them, to be judged beside it."""
    plan = job.plan
    if plan.start is None:
        return student
    return build_student(job.source.directory, layers=plan.layers, width=plan.width, device=Device.CPU)


def _store_copying(student: Any, dialogues: Sequence[Dialogue], drafter: Path) -> None:
    """Say beside the weights, which come last, what copies count; nothing where no dialogue tells."""
    weights = fit_copying(student.eval(), [dialogues[i] for i in held_back(len(dialogues))])
    if weights is None:
        (drafter / COPYING_FILE).unlink(missing_ok=True)
    else:
        replace_file(drafter / COPYING_FILE, msgspec.json.format(msgspec.json.encode(weights)) + b"\n")


def _drafters(job: Job, drafter: Path, untrained: Path) -> dict[str, Contender]:
    """What is judged: the drafter itself first, then what it is to be compared with."""
    drafters = {"trained": Contender(str(drafter))}
    if (drafter / COPYING_FILE).is_file():
        drafters["trained, not copying"] = Contender(str(drafter), copying=False)
    if job.plan.start is not None:
        drafters["before"] = Contender(str(job.catalog.path(job.plan.start)))
    drafters["same layers, untrained"] = Contender(str(untrained))
    drafters["n-gram lookup"] = Contender(f"ngram:{job.source.directory}")
    return drafters


def _train(
    job: Job, student: Any, dialogues: Sequence[Dialogue], tell: Callable[[Reading], None]
) -> tuple[list[Reading], int]:
    """Readings where agreement was measured, and the number of tokens trained on."""
    run = hashlib.sha256(msgspec.json.encode([job.plan, job.source.digest, len(dialogues)])).hexdigest()
    trainer = Trainer(student, dialogues, job.plan.schedule, Checkpoints(job.folder / CHECKPOINT_FILE, run))
    store_plan(job.folder, job.plan)
    log = job.folder / "training.jsonl"
    readings = _readings(log, trainer.step)

    def note(reading: Reading) -> None:
        readings.append(reading)
        if reading.agreement is not None or reading.step == reading.steps:
            replace_file(log, b"".join(msgspec.json.encode(r) + b"\n" for r in readings))
        tell(reading)

    trainer.run(note)
    return [r for r in readings if r.agreement is not None], readings[-1].tokens if readings else 0


def _readings(log: Path, step: int) -> list[Reading]:
    """Those up to the step that training goes on from; later ones come again."""
    if not step or not log.is_file():
        return []
    try:
        found = [msgspec.json.decode(line, type=Reading) for line in log.read_bytes().splitlines()]
    except msgspec.DecodeError as error:
        raise ConfigError(f"{log} is damaged ({error}): delete it, then repeat") from error
    return [reading for reading in found if reading.step <= step]
