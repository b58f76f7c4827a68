from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_models import write_tiny_model
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation import recorder
from wanspec_p2p.simulation.recording import read_recording

MORE = ("--tokens", "6", "--threads", "1", "--dtype", "float32")


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TIMED_PASSES", 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("pair")
    yield str(write_tiny_model(folder / "big")), str(write_tiny_model(folder / "small", seed=1))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": text}) for text in ("one?", "two?", "three?", "four?")))
    return str(file)


def test_a_pair_is_recorded(run: Run, models: tuple[str, str], prompts: str, tmp_path: Path) -> None:
    file = tmp_path / "pair.jsonl"
    code, out, err = run("record", *models, "--prompts", prompts, "--count", "2", "--out", str(file), *MORE)
    assert code == ExitCode.OK, err
    recording = read_recording(file)
    assert [answer.prompt for answer in recording.answers] == ["1", "3"]
    header = recording.header
    assert (header.target.name, header.drafter.name, header.temperature) == ("big", "small", 0.0)
    assert "cpu, float32, threads: 1" in header.machine and str(tmp_path) not in file.read_text()
    lines = out.splitlines()
    assert lines[0].endswith("positions of 2 answers at temperature 0") and lines[-1] == f"Written: {file}"


def test_with_json_stdout_is_one_object(
    run: Run, models: tuple[str, str], prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("record", models[0], models[0], "--prompts", prompts, "--temperature", "0.5", "--seed", "4", *MORE)
    code, out, err = run(*arguments, "--json")
    assert code == ExitCode.OK, err
    report = json.loads(out)
    assert report["file"] == "big.big.t0.5.s4.jsonl" and out.count("\n") == 1
    assert report["answers"] == 4 and report["ranks"] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert [rows for rows, _ in report["drafter_seconds"]] == [1, 4, 8]
    code, out, err = run(*arguments)
    assert code == ExitCode.USAGE and "is there already: name another file, or remove it" in err


def test_what_cannot_be_recorded_is_one_line(run: Run, models: tuple[str, str], prompts: str, tmp_path: Path) -> None:
    def refused(*arguments: str, code: ExitCode = ExitCode.USAGE) -> str:
        found, out, err = run("record", *arguments, *MORE)
        assert (found, out, err.count("\n")) == (code, "", 1), err
        return err

    assert "holds no prompt" in refused(*models, "--prompts", "/dev/null", "--out", str(tmp_path / "a"))
    assert "no folder that can be written to" in refused(
        *models, "--prompts", prompts, "--out", str(tmp_path / "nowhere" / "a")
    )
    (tmp_path / "program").touch(mode=0o755)
    assert "program is no folder" in refused(*models, "--prompts", prompts, "--out", str(tmp_path / "program" / "a"))
    long = str(tmp_path / ("a" * 300))
    assert "cannot be written: File name too long" in refused(*models, "--prompts", prompts, "--out", long)
    assert "--out" in refused("a" * 300, models[1], "--prompts", prompts)
    assert "missing" in refused(
        str(tmp_path / "missing"), models[1], "--prompts", prompts, "--out", str(tmp_path / "a"), code=ExitCode.MODEL
    )
    assert not (tmp_path / "a").exists()
