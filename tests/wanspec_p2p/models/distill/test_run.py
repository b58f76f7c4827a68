"""A whole run in miniature. What the command says of it is in tests/wanspec_p2p/cli/test_distill.py."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_models import write_tiny_model
from wanspec_p2p.errors import ConfigError, EngineError
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.copying import CopyWeights, read_weights
from wanspec_p2p.models.distill import evaluation, run, torch_answers, torch_corpus
from wanspec_p2p.models.distill.corpus import Corpus
from wanspec_p2p.models.distill.job import Job, Report
from wanspec_p2p.models.distill.plan import Plan
from wanspec_p2p.models.distill.run import distill
from wanspec_p2p.models.distill.torch_corpus import find_source, recipe_for
from wanspec_p2p.models.distill.torch_training import Reading, Schedule
from wanspec_p2p.models.torch_device import choose_device
from wanspec_p2p.types import Device, Dtype

SCHEDULE = Schedule(epochs=1, batch_tokens=1024)
PLAN = Plan(layers=(0,), tokens=600, schedule=SCHEDULE)


@pytest.fixture(scope="module", autouse=True)
def in_miniature() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_corpus, "SHORTEST", 40)
        patched.setattr(torch_answers, "ANSWER_TOKENS", 16)
        patched.setattr(evaluation, "TIMED_PASSES", 3)
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its context is short, so that dialogues are."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    return write_tiny_model(folder, num_hidden_layers=3, max_position_embeddings=128)


def job(directory: Path, out: Path, plan: Plan = PLAN, **more: Any) -> Job:
    catalog = Catalog(out.parent / "cache")
    return Job(
        source=find_source(str(directory), catalog),
        plan=plan,
        out=out,
        placement=choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1),
        catalog=catalog,
        command="wanspec distill tiny",
        machine="here",
        **{"unseen": [("question", "Why?"), ("order", "Go.")], **more},
    )


def go(asked: Job) -> Report:
    return distill(asked, lambda *told: None, lambda reading: None)


@pytest.fixture(scope="module")
def done(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Report]:
    asked = job(directory, tmp_path_factory.mktemp("done") / "out")
    return asked, go(asked)


def test_everything_that_was_made_lies_there(done: tuple[Job, Report]) -> None:
    asked, report = done
    files = {str(file.relative_to(asked.out)) for file in asked.out.rglob("*") if file.is_file()}
    [answers] = asked.out.glob("answers-*.json")
    assert {file for file in files if not Path(file).name.startswith(".")} == {
        answers.name,
        "corpus/corpus.json",
        "corpus/shard-00000.safetensors",
        *(
            f"layers-0/{name}"
            for name in (
                "plan.json", "checkpoint.safetensors", "training.jsonl", "layers.safetensors", "report.json",
                "report.svg", "drafter/README.md", "drafter/config.json", "drafter/generation_config.json",
                "drafter/model.safetensors", "drafter/tokenizer.json", "drafter/tokenizer_config.json",
            )
        ),
    }  # fmt: skip
    assert msgspec.json.decode((asked.folder / "report.json").read_bytes(), type=Report) == report


def test_a_report_says_what_was_made_and_how_good_it_is(done: tuple[Job, Report]) -> None:
    asked, report = done
    corpus = Corpus(asked.out / "corpus", recipe_for(asked.source, seed=0, device=Device.CPU))
    assert (report.target, report.plan, report.command) == ("tiny", PLAN, "wanspec distill tiny")
    assert report.generated == corpus.generated() >= 600
    assert report.dialogues == len(corpus)
    names = ["trained", "same layers, untrained", "n-gram lookup"]
    assert [(s.drafter, s.temperature) for s in report.judgement.standings] == [
        (n, t) for n in names for t in (0.0, 0.8)
    ]
    assert set(report.judgement.standings[0].figures.by_category) == {"question", "order"}


def test_a_drafter_says_what_its_copies_count_and_forgets_it_where_nothing_tells(
    done: tuple[Job, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, report = done
    monkeypatch.setattr(run, "fit_copying", lambda student, dialogues: CopyWeights((1, 4), (0.25, 0.5)))
    asked = dataclasses.replace(asked, out=Path(shutil.copytree(asked.out, tmp_path / "out")))
    copying = go(asked)
    drafter = Path(copying.drafter)
    assert read_weights(drafter) == CopyWeights((1, 4), (0.25, 0.5))
    assert list(dict.fromkeys(s.drafter for s in copying.judgement.standings)) == [
        "trained", "trained, not copying", "same layers, untrained", "n-gram lookup"
    ]  # fmt: skip
    plain = [s.figures for s in copying.judgement.standings if s.drafter == "trained, not copying"]
    assert plain == [s.figures for s in report.judgement.standings if s.drafter == "trained"]
    monkeypatch.setattr(run, "fit_copying", lambda student, dialogues: None)
    assert [s.figures for s in go(asked).judgement.standings] == [s.figures for s in report.judgement.standings]
    assert read_weights(drafter) is None


def test_resuming_what_is_done_trains_no_more(done: tuple[Job, Report]) -> None:
    asked, report = done
    before = load_file(asked.folder / "drafter" / "model.safetensors")
    again = distill(asked, lambda *told: None, lambda reading: pytest.fail("trained on"))
    after = load_file(asked.folder / "drafter" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (again.trained, again.curve, again.generated) == (report.trained, report.curve, report.generated)
    assert [s.figures for s in again.judgement.standings] == [s.figures for s in report.judgement.standings]


def test_another_shape_shares_the_text_and_a_longer_run_does_not_disturb(
    done: tuple[Job, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, report = done
    plan = Plan(layers=(0, 2), tokens=report.generated + 300, schedule=SCHEDULE, width=32)
    longer = go(dataclasses.replace(asked, plan=plan))
    assert longer.generated > report.generated
    assert {folder.name for folder in asked.out.glob("layers-*")} == {"layers-0", "layers-0-2-width-32"}
    monkeypatch.setattr(torch_corpus, "write_dialogues", lambda *a, **k: pytest.fail("wrote on"))
    again = distill(asked, lambda *told: None, lambda reading: pytest.fail("trained on"))
    assert (again.generated, again.dialogues) == (report.generated, report.dialogues)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (msgspec.structs.replace(PLAN, tokens=700), "layers-0 was begun with --tokens 600 .now 700.: repeat that"),
        (msgspec.structs.replace(PLAN, schedule=Schedule(epochs=2, batch_tokens=1024)), "--epochs 1"),
        (msgspec.structs.replace(PLAN, seed=1), "was written with another --seed"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(done: tuple[Job, Report], plan: Plan, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        go(dataclasses.replace(done[0], plan=plan))


def test_going_on_from_another_drafter(done: tuple[Job, Report], tmp_path: Path) -> None:
    asked, report = done
    plan = msgspec.structs.replace(PLAN, start=report.drafter)
    onward = go(job(asked.source.directory, tmp_path / "out", plan))
    names = {standing.drafter: standing for standing in onward.judgement.standings if standing.temperature == 0}
    assert list(names) == ["trained", "before", "same layers, untrained", "n-gram lookup"]
    assert names["before"].figures == report.judgement.standings[0].figures
    assert names["same layers, untrained"].figures == report.judgement.standings[2].figures


def test_a_start_for_another_tokenizer_is_refused(done: tuple[Job, Report], tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", num_hidden_layers=1)
    tokenizer = (other / "tokenizer.json").read_text().replace("<|turn|>", "<|other|>")
    (other / "tokenizer.json").write_text(tokenizer)
    asked = job(done[0].source.directory, tmp_path / "out", msgspec.structs.replace(PLAN, start=str(other)))
    with pytest.raises(ConfigError, match="--start .*other does not fit: its tokenizer is not that of tiny"):
        go(asked)
    assert not asked.out.exists()


@pytest.mark.parametrize(
    ("plan", "error"),
    [(msgspec.structs.replace(PLAN, layers=(9,)), "--layers names layer 9"),
     (msgspec.structs.replace(PLAN, width=65), "--width 65")],
)  # fmt: skip
def test_a_shape_that_the_target_cannot_give_leaves_nothing_behind(
    directory: Path, tmp_path: Path, plan: Plan, error: str
) -> None:
    asked = job(directory, tmp_path / "out", plan)
    with pytest.raises(ConfigError, match=error):
        go(asked)
    assert not asked.out.exists()


def test_too_little_memory_is_refused_before_anything_is_loaded(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(directory, tmp_path / "out")
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(run, "build_student", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match="of memory and 0.0 GB are available"):
        go(asked)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("can't allocate memory: 9"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 2 MB on private pool."),
    ],
)
def test_memory_that_runs_out_after_all_is_one_line(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(run, "build_student", fail)
    with pytest.raises(EngineError, match="^out of memory on cpu: end other programs, or take a smaller --batch"):
        go(job(directory, tmp_path / "out"))


def test_another_error_is_not_taken_for_it(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "build_student", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        go(job(directory, tmp_path / "out"))


def test_what_is_interrupted_goes_on_from_there(
    done: tuple[Job, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    asked = job(done[0].source.directory, tmp_path / "out")
    for stage in ("ask_target", "_train", "judge", "write_card"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(run, stage, interrupt)
            go(asked)
        assert not (asked.folder / "untrained").exists()
    report = go(asked)
    assert [s.figures for s in report.judgement.standings] == [s.figures for s in done[1].judgement.standings]
    assert report.curve == () and report.trained == done[1].trained


def test_readings_after_the_checkpoint_are_taken_again(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    readings = [Reading(step, 9, step * 10, 1.0, None, 0.0) for step in range(1, 6)]
    log.write_bytes(b"".join(msgspec.json.encode(reading) + b"\n" for reading in readings))
    assert run._readings(log, 3) == readings[:3]
    assert run._readings(log, 0) == run._readings(tmp_path / "nowhere", 3) == []
    log.write_text("{\n")
    with pytest.raises(ConfigError, match=r"training\.jsonl is damaged .*: delete it, then repeat"):
        run._readings(log, 3)
