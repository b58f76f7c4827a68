from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tests.support.tiny_models import write_tiny_model
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.distill import _command, _default_folder, _told
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.models.distill import evaluation, torch_answers, torch_corpus
from wanspec_p2p.models.distill import run as stages
from wanspec_p2p.models.distill.job import Report

ARGUMENTS = (
    "--layers",
    "1",
    "--tokens",
    "600",
    "--epochs",
    "1",
    "--batch",
    "1024",
    "--threads",
    "1",
    "--dtype",
    "float32",
)


@pytest.fixture(scope="module", autouse=True)
def in_miniature() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_corpus, "SHORTEST", 13)  # enough dialogues that one is held back
        patched.setattr(torch_answers, "ANSWER_TOKENS", 16)
        patched.setattr(evaluation, "TIMED_PASSES", 3)
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("targets") / "tiny"
    return str(write_tiny_model(folder, num_hidden_layers=2, max_position_embeddings=96))


@pytest.fixture(scope="module")
def whole_run(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run in it."""
    from wanspec_p2p.cli.main import main

    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANSPEC_CACHE_DIR", str(out.parent / "cache"))
        patched.setattr(sys, "argv", ["wanspec", "distill", target, *ARGUMENTS, "--seed", "5", "--out", str(out)])
        assert main(sys.argv[1:]) == ExitCode.OK
    return out


@pytest.fixture
def out(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole_run, tmp_path / "out"))


def refused(run: Run, *arguments: str, code: ExitCode = ExitCode.USAGE) -> str:
    """The one line that the user is told."""
    found, out, err = run("distill", *arguments)
    assert (found, out) == (code, ""), err
    *told, line = err.splitlines()
    assert line.startswith("wanspec: ") and all(" writes: " in other or "answers at" in other for other in told), err
    return line


def test_the_figures_go_to_stdout_and_how_it_goes_to_stderr(run: Run, target: str, out: Path) -> None:
    code, printed, told = run("distill", target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume")
    assert code == ExitCode.OK
    lines = printed.splitlines()
    assert lines[0].startswith("| drafter | temperature | α |")
    names = ("trained", "trained, not copying", "same layers, untrained", "n-gram lookup")
    assert [line.split(" | ")[0] for line in lines[2:10]] == [f"| {name}" for name in names for _ in range(2)]
    drafter = out / "layers-0" / "drafter"
    assert lines[-2:] == [
        f"The drafter is ready: {drafter} (its card: {drafter / 'README.md'})",
        f"Serve it: wanspec node run --model {drafter}",
    ]
    assert "tiny writes: 600 of 600" in told and "judge trained: 2 of 2" in told
    assert "train:" not in told  # it was trained before


def test_with_json_stdout_is_the_report_alone(run: Run, target: str, out: Path) -> None:
    code, printed, _ = run("distill", target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume", "--json")
    report = msgspec.json.decode(printed, type=Report)
    assert code == ExitCode.OK and printed.count("\n") == 1
    assert report == msgspec.json.decode((out / "layers-0" / "report.json").read_bytes(), type=Report)


def test_what_was_made_is_described(whole_run: Path) -> None:
    report = msgspec.json.decode((whole_run / "layers-0" / "report.json").read_bytes(), type=Report)
    assert report.plan.layers == (0,) and report.plan.seed == report.plan.schedule.seed == 5
    assert report.curve and report.trained > 0
    card = (whole_run / "layers-0" / "drafter" / "README.md").read_text(encoding="utf-8")
    assert f"`wanspec distill tiny {' '.join(ARGUMENTS)} --seed 5 --out out`" in card
    assert "seed 5" in card and "# A drafter for tiny" in card
    assert str(whole_run.parent) not in card


def test_agreement_is_told_while_it_trains(run: Run, target: str, out: Path) -> None:
    shutil.rmtree(out / "layers-0")
    code, _, told = run("distill", target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume")
    assert code == ExitCode.OK
    [line] = [line for line in told.splitlines() if line.startswith("train: ")]
    assert "agreement with the target on dialogues held back 0." in line


def test_waiting_for_another_run_is_told_where_nobody_sees_bars(capsys: pytest.CaptureFixture[str]) -> None:
    tell = _told(lambda *told: None)
    for _ in range(2):
        tell("wait for another run: layers-0", 0, 0)
    assert capsys.readouterr().err == "wait for another run: layers-0\n"


def test_a_run_is_not_begun_twice_by_mistake(run: Run, target: str, out: Path) -> None:
    assert "holds a run already: add --resume to go on with it" in refused(run, target, *ARGUMENTS, "--out", str(out))


def test_other_settings_are_refused_with_what_differs(run: Run, target: str, out: Path) -> None:
    arguments = (target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume")
    line = refused(run, *arguments, "--peak", "0.01")
    assert "layers-0 was begun with --peak 0.002 (now 0.01): repeat that, or delete the folder" in line
    assert "corpus was written with another --seed: repeat" in refused(run, *arguments, "--seed", "6")
    (out / "prompts").write_text('{"prompt": "Why?"}')
    assert "another --prompts: repeat" in refused(run, *arguments, "--prompts", str(out / "prompts"))


def test_unseen_prompts_are_judged_on(run: Run, target: str, out: Path, tmp_path: Path) -> None:
    unseen = tmp_path / "unseen.jsonl"
    unseen.write_text("".join(json.dumps({"turns": [f"Q{i}"], "category": f"c{i}"}) + "\n" for i in range(4)))
    arguments = (target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume", "--json", "--unseen", str(unseen))
    code, printed, _ = run("distill", *arguments, "--unseen-count", "2")
    assert code == ExitCode.OK
    assert set(json.loads(printed)["judgement"]["standings"][0]["figures"]["by_category"]) == {"c0", "c2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layers", "3"), "--layers 3: the target has 2 layers, so a drafter takes 1 to 2"),
        (("--layers", "0"), "--layers 0: the target has 2 layers"),
        (("--layers", "x"), "--layers 'x' is neither a number nor numbers with commas"),
        (("--layers", "0,"), "--layers '0,' is neither"),
        (("--layers", "0,7"), "--layers names layer 7: the target has layers 0 to 1"),
        (("--layers", "1,0"), "--layers 1,0: name each layer once, the lowest first"),
        (("--width", "65"), "--width 65: the target's MLPs have 64 neurons, so a drafter takes 1 to 64"),
        (("--width", "half"), "--width 'half' is neither a number nor 'same'"),
        (("--batch", "1"), "Invalid value for '--batch'"),
        (("--epochs", "inf"), "Invalid value for '--epochs'"),
        (("--unseen-count", "3"), "--unseen-count counts prompts of --unseen"),
        (("--prompts", "nowhere"), "--prompts nowhere cannot be read: No such file"),
        (("--unseen", "/"), "--unseen / cannot be read: Is a directory"),
        (("--resume",), "--resume: there is no run in new"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(run, target, *ARGUMENTS, "--out", "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_target_that_will_not_do_is_one_line(run: Run, tmp_path: Path) -> None:
    silent = write_tiny_model(tmp_path / "silent")
    config = json.loads((silent / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (silent / "tokenizer_config.json").write_text(json.dumps(config))
    new = str(tmp_path / "new")
    line = refused(run, str(silent), *ARGUMENTS, "--out", new, code=ExitCode.MODEL)
    assert line.startswith("wanspec: silent cannot be distilled: its chat template is missing, or refuses a dialogue")
    small = write_tiny_model(tmp_path / "small", vocab_size=257, bos_token_id=1)
    line = refused(run, str(small), *ARGUMENTS, "--out", new, code=ExitCode.MODEL)
    assert "small cannot be distilled: its tokenizer makes id 257, its vocabulary has 257" in line
    nested = write_tiny_model(tmp_path / "nested")
    config = json.loads((nested / "config.json").read_text())
    (nested / "config.json").write_text(json.dumps(config | {"num_hidden_layers": None}))
    line = refused(run, str(nested), *ARGUMENTS, "--out", new, code=ExitCode.MODEL)
    assert "cannot be distilled: its config.json does not say how many layers it has" in line
    assert "no model 'nonsense'" in refused(run, "nonsense", "--out", new, code=ExitCode.MODEL)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(run, str(tmp_path / "empty"), "--out", new, code=ExitCode.MODEL)
    assert not Path(new).exists()


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(run: Run, target: str, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("…")
    assert "thesis holds something else: name an empty folder" in refused(run, target, "--out", str(foreign))
    assert "thesis.tex is a file: name a folder" in refused(run, target, "--out", str(foreign / "thesis.tex"))
    (foreign / "thesis.tex").rename(foreign / "corpus")
    assert "holds something else" in refused(run, target, *ARGUMENTS, "--out", str(foreign))
    assert [file.name for file in foreign.iterdir()] == ["corpus"]


def test_an_empty_folder_will_do(run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "fill_corpus", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    (tmp_path / "new").mkdir()
    code, _, err = run("distill", target, *ARGUMENTS, "--out", str(tmp_path / "new"))
    assert (code, err) == (ExitCode.INTERRUPTED, "wanspec: interrupted: nothing was begun\n")


def test_a_start_that_does_not_fit_is_one_line(run: Run, target: str, out: Path, tmp_path: Path) -> None:
    arguments = (target, *ARGUMENTS, "--out", str(tmp_path / "new"))
    drafter = str(out / "layers-0" / "drafter")
    line = refused(run, *arguments, "--layers", "2", "--start", drafter)
    assert "does not fit: model.layers.1." in line and "is missing" in line
    other = write_tiny_model(tmp_path / "other")
    tokenizer = (other / "tokenizer.json").read_text().replace("<|turn|>", "<|other|>")
    (other / "tokenizer.json").write_text(tokenizer)
    assert "its tokenizer is not that of tiny" in refused(run, *arguments, "--start", str(other))
    assert "no model 'nowhere'" in refused(run, *arguments, "--start", "nowhere", code=ExitCode.MODEL)


def test_damaged_data_is_one_line(run: Run, target: str, out: Path) -> None:
    arguments = (target, *ARGUMENTS, "--seed", "5", "--out", str(out), "--resume")
    (out / "layers-0" / "checkpoint.safetensors").write_bytes(b"")
    assert "checkpoint.safetensors is damaged" in refused(run, *arguments)
    (out / "corpus" / "shard-00000.safetensors").write_bytes(b"")
    assert "shard-00000.safetensors is damaged" in refused(run, *arguments)
    (out / "corpus" / "corpus.json").write_text("{")
    assert "corpus.json is not ours or damaged" in refused(run, *arguments)


def test_too_few_tokens_to_judge_on_is_one_line(run: Run, target: str, tmp_path: Path) -> None:
    line = refused(run, target, *ARGUMENTS, "--tokens", "30", "--out", str(tmp_path / "new"))
    assert "dialogues could be held back to judge on: ask for more --tokens, or bring prompts with --unseen" in line


def test_too_little_room_is_one_line(run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (target, *ARGUMENTS, "--out", str(tmp_path / "new"))
    memory = psutil.virtual_memory()._replace(available=10)
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "virtual_memory", lambda: memory)
        assert "of memory and 0.0 GB are available: end other programs" in refused(run, *arguments)
    patched_usage: Any = lambda place: shutil._ntuple_diskusage(1, 1, 0)  # type: ignore[attr-defined]  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", patched_usage)
    assert "0.0 GB are free: make room, name another --out" in refused(run, *arguments)


@pytest.mark.parametrize(
    "file", [".corpus.json", ".shard-00000", ".answers-", ".plan.json", ".checkpoint", ".layers.safetensors",
             ".model.safetensors", ".report.json", ".report.svg"]
)  # fmt: skip
def test_a_full_disk_is_one_line_whatever_is_written(
    run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path, file: str
) -> None:
    """Each stage goes on from a run that lacks what it makes."""
    lacking = {".corpus.json": "corpus", ".shard-00000": "corpus/shard-00000.safetensors", ".answers-": "answers-*"}
    for path in out.glob(lacking.get(file, "layers-0")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    begun = file != ".corpus.json"
    if not begun:
        shutil.rmtree(out)
    opened = os.open

    def full(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(os.fsdecode(path)).name.startswith(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", full)
    code, printed, err = run(
        "distill", target, *ARGUMENTS, "--seed", "5", "--out", str(out), *(["--resume"] if begun else [])
    )
    assert (code, printed) == (ExitCode.USAGE, "")
    line = err.splitlines()[-1]
    assert "could not be written (No space left on device): make room and repeat the command; with --resume" in line


def test_another_error_of_the_system_is_one_line_too(
    run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/some/.lock")

    monkeypatch.setattr(stages, "fill_corpus", fail)
    line = refused(run, target, *ARGUMENTS, "--out", str(tmp_path / "new"))
    assert line == "wanspec: /some/.lock: Read-only file system: mend that and repeat"


def test_an_interrupt_says_how_to_go_on(run: Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("distill", target, *ARGUMENTS, "--out", str(tmp_path / "new"))
    with monkeypatch.context() as patched:
        patched.setattr(torch_corpus, "write_dialogues", lambda *a, **k: signal.raise_signal(signal.SIGTERM))
        code, printed, err = run(*arguments)
    assert (code, printed) == (ExitCode.INTERRUPTED, "")
    assert err.splitlines()[-1] == "wanspec: interrupted: repeat the command with --resume, and it goes on"
    assert run(*arguments, "--resume")[0] == ExitCode.OK


def test_a_missing_part_is_one_line(run: Run, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    line = refused(run, target, code=ExitCode.MODEL)
    assert line == "wanspec: distilling needs matplotlib: install wanspec-p2p with [distill]"


def test_a_command_is_told_without_its_folders(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    inside = str(tmp_path / "private")
    given = ["distill", inside, f"--out={inside}/new", "--start", "~/x", "--seed", "3", "--unseen", "a b/c"]
    assert _command(given) == "wanspec distill private --out=new --start x --seed 3 --unseen 'a b/c'"
    assert _command(["distill", "owner/model@main"]) == "wanspec distill owner/model@main"


def test_the_folder_is_named_after_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    names = ("smollm2-135m", "owner/model", str(tmp_path / "mine") + "/", ".")
    assert [_default_folder(name).name for name in names] == [
        "smollm2-135m-drafter", "model-drafter", "mine-drafter", "mine-drafter"
    ]  # fmt: skip
