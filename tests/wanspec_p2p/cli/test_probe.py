from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fake_openai import FakeOpenAI, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.probe import _Watch
from wanspec_p2p.client.probe_plan import ProbedEndpoint, read_plan
from wanspec_p2p.client.series import Measurement, Series
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.locking import file_lock
from wanspec_p2p.words import counted

KEY = "sk-very-secret"
ENDPOINT = """
[[endpoint]]
name = "{name}"
region = "{region}"
base_url = "{url}"
model = "big"
api_key_env = "PROBE_KEY"
synthetic = true
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_KEY", KEY)


def plan(tmp_path: Path, **urls: str) -> str:
    file = tmp_path / "plan.toml"
    tables = [ENDPOINT.format(name=name, region=f"region of {name}", url=url) for name, url in urls.items()]
    file.write_text("max_tokens = 8\n" + "".join(tables), encoding="utf-8")
    return str(file)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """One that has begun just now, of an endpoint whose address nobody has."""
    file = tmp_path / "load.sqlite3"
    with Series(file, create=True) as stored:
        stored.enrol([ProbedEndpoint("a", "west", "http://127.0.0.1:9/v1", "big")])
        now = SystemClock().wall()
        stored.add(Measurement("a", now, 0.5, 0.02, 8))
        stored.add(Measurement("a", now, failure="timeout"))
    return file


def test_a_run_measures_and_a_report_draws_it(run: Run, tmp_path: Path) -> None:
    out, folder = tmp_path / "load.sqlite3", tmp_path / "map"
    with serving(FakeOpenAI(first=0.05, each=0.01, key=KEY)) as one, serving(FakeOpenAI(status=503)) as two:
        arguments = ("probe", "run", plan(tmp_path, a=one, b=two), "--out", str(out), "--duration", "0.5s")
        code, said, err = run(*arguments, "--interval", "0.2s")
    assert (code, err) == (0, "wanspec: b fails (http 503)\n")
    lines = said.splitlines()
    assert lines[0].startswith("a: ") and lines[0].endswith("none failed")
    assert lines[1].startswith("b: ") and "× http 503" in lines[1]
    code, said, err = run("probe", "report", str(out), "--out", str(folder))
    assert (code, err) == (0, "")
    assert "synthetic" in said.splitlines()[0]
    assert {file.name for file in folder.iterdir()} == {
        "load-map.svg", "load-map.png", "load-map.json", "scenario.toml",
    }  # fmt: skip
    assert "SYNTHETIC" in (folder / "load-map.svg").read_text(encoding="utf-8")
    (region,) = tomllib.loads((folder / "scenario.toml").read_text(encoding="utf-8"))["region"]
    assert region["name"] == "region of a" and region["delay_ms"] >= 45
    for file in (out, *tmp_path.glob("load.sqlite3*"), *folder.iterdir()):
        assert KEY.encode() not in file.read_bytes()


def test_a_report_names_the_hours_of_which_most_failed(run: Run, series: Path) -> None:
    code, said, _ = run("probe", "report", str(series))
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith("west: ")]
    assert "failures in west: 1 × timeout" in said.splitlines()
    assert line.startswith("west: at least half of the measurements failed at ") and line.endswith(":00 (50 %)")


def test_only_regions_that_are_made_up_are_marked(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "load.sqlite3"
    with Series(file, create=True) as stored:
        stored.enrol(
            [
                ProbedEndpoint("e", "east", "http://127.0.0.1:9/v1", "big", synthetic=True),
                ProbedEndpoint("w", "west", "http://127.0.0.1:9/v1", "big"),
            ]
        )
        for name in ("e", "w"):
            stored.add(Measurement(name, 0.0, 0.5, 0.02, 8))
    code, said, _ = run("probe", "report", str(file))
    lines = said.splitlines()
    assert (code, lines[0]) == (0, "Delays of regions marked as synthetic were made up, not observed.")
    assert any(line.startswith("east (synthetic) ") for line in lines)
    assert any(line.startswith("west  ") for line in lines)


def test_the_busiest_hour_is_one_that_failed_if_there_is_one(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "load.sqlite3"
    with Series(file, create=True) as stored:
        stored.enrol([ProbedEndpoint(name, name, "http://127.0.0.1:9/v1", "big") for name in ("east", "west")])
        for hour, first in ((3, 0.1), (9, 0.4), (10, 0.1)):
            stored.add(Measurement("east", hour * 3600.0, first, 0.02, 8))
            stored.add(Measurement("west", hour * 3600.0, first, 0.02, 8))
        for hour, kind in ((10, "http 503"), (20, "http 503"), (20, "timeout")):
            stored.add(Measurement("west", hour * 3600.0, failure=kind))
    code, said, _ = run("probe", "report", str(file))
    lines = said.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("west "))
    assert code == 0
    assert next(line for line in lines if line.startswith("east ")).endswith("09:00 × 4.00")
    assert lines[at].endswith("20:00") and lines[at + 1].strip() == "100 % failed"


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_series_without_a_whole_answer_becomes_no_scenario(run: Run, tmp_path: Path, how: tuple[str, ...]) -> None:
    file = tmp_path / "load.sqlite3"
    with Series(file, create=True) as stored:
        stored.enrol([ProbedEndpoint("a", "west", "http://127.0.0.1:9/v1", "big")])
        stored.add(Measurement("a", SystemClock().wall(), failure="unreachable"))
    code, _, err = run("probe", "report", str(file), *how)
    assert (code, err) == (0, "wanspec: no region had a whole answer, so no scenario.toml is written\n")
    assert {each.name for each in (tmp_path / "load").iterdir()} == {"load-map.svg", "load-map.png", "load-map.json"}


def test_json_is_the_whole_of_stdout(run: Run, tmp_path: Path, series: Path) -> None:
    code, out, _ = run("probe", "report", str(series), "--json", "--synthetic")
    found = json.loads(out)
    assert code == 0
    assert found["synthetic"] is True
    assert (tmp_path / "load" / "load-map.svg").is_file()  # named after the series
    assert json.loads((tmp_path / "load" / "load-map.json").read_text(encoding="utf-8")) == found
    assert (found["regions"][0]["first_token"]["p50"], found["regions"][0]["failures"]) == (0.5, {"timeout": 1})
    with serving(FakeOpenAI()) as url:
        arguments = ("probe", "run", plan(tmp_path, b=url), "--out", str(tmp_path / "new"), "--duration", "1s")
        code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out) == {
        "series": str(tmp_path / "new"),
        "endpoints": [{"name": "b", "measurements": 1, "failures": {}}],
    }


def age(series: Path) -> float:
    with Series(series) as stored:
        return SystemClock().wall() - (stored.begun() or 0.0)


def test_a_run_that_is_repeated_goes_on(run: Run, tmp_path: Path, series: Path) -> None:
    with serving(FakeOpenAI()) as url:
        arguments = ("probe", "run", plan(tmp_path, b=url), "--out", str(series), "--duration")
        code, out, _ = run(*arguments, f"{age(series) + 1:.0f}s", "--json")
    assert code == 0
    assert [(e["name"], e["measurements"]) for e in json.loads(out)["endpoints"]] == [("a", 2), ("b", 1)]


def test_a_series_that_somebody_locks_holds_no_measurement_up(run: Run, tmp_path: Path) -> None:
    out, fake = tmp_path / "load.sqlite3", FakeOpenAI(first=0.05)

    def lock() -> None:
        assert fake.asked.acquire(timeout=60)
        with contextlib.closing(sqlite3.connect(out, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            asked.append(fake.asked.acquire(timeout=60))  # the next is asked for while nothing can be stored

    asked: list[bool] = []
    other = threading.Thread(target=lock)
    other.start()
    with serving(fake) as url:
        arguments = ("probe", "run", plan(tmp_path, a=url, b=url), "--out", str(out), "--duration", "0.1s")
        code, said, _ = run(*arguments, "--concurrency", "1", "--json")
    other.join(60)
    assert (code, asked) == (0, [True])
    assert [endpoint["measurements"] for endpoint in json.loads(said)["endpoints"]] == [1, 1]


def test_a_second_run_into_the_same_series_is_refused(run: Run, tmp_path: Path, series: Path) -> None:
    arguments = ("probe", "run", plan(tmp_path, a="http://127.0.0.1:9/v1"), "--out", str(series))
    lock = tmp_path / "load.sqlite3.lock"
    with file_lock(lock):
        code, out, err = run(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == (f"wanspec: another `wanspec probe run` stores into {series}: let it go on, or name another --out\n")
    lock.unlink()
    lock.mkdir()
    code, _, err = run(*arguments)
    assert (code, err.count("\n")) == (ExitCode.USAGE, 1)
    assert "cannot be locked (Is a directory)" in err


def test_a_series_is_the_same_by_whatever_link(run: Run, tmp_path: Path, series: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(series)
    with file_lock(tmp_path / "load.sqlite3.lock"):
        code, _, err = run("probe", "run", plan(tmp_path, a="http://127.0.0.1:9/v1"), "--out", str(link))
    assert (code, err.count("\n")) == (ExitCode.USAGE, 1)
    assert f"stores into {link}" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_good_file_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "load.sqlite3"
    fake = FakeOpenAI()
    with serving(fake) as url:
        command = [sys.executable, "-m", "wanspec_p2p.cli", "probe", "run", plan(tmp_path, a=url)]
        command += ["--out", os.fspath(out), "--interval", "0.1s"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for _ in range(2):  # it asks again when the first measurement is stored
                assert fake.asked.acquire(timeout=60)
            process.send_signal(number)
            said, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait(10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert said == ""
    with Series(out) as stored:
        found = list(stored.measurements())
    assert err.splitlines() == [
        f"wanspec: a: {counted(len(found), 'measurement')}, none failed",
        f"wanspec: interrupted: what was measured is in {out}; repeat the command to go on",
    ]
    assert found and all(measurement.failure is None for measurement in found)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no plan": (["run", "nowhere.toml"], "nowhere.toml cannot be read"),
    "duration": (["run", "PLAN", "--duration", "long"], "--duration 'long' is not a time"),
    "no duration": (["run", "PLAN", "--duration", "0"], "--duration '0' is not a time"),
    "interval": (["run", "PLAN", "--interval", "-5m"], "--interval '-5m' is not a time"),
    "concurrency": (["run", "PLAN", "--concurrency", "0"], "--concurrency"),
    "over": (["run", "PLAN", "--duration", "0.1s", "--out", "OLD"], "it goes on with a longer --duration"),
    "another question": (["run", "PLAN", "--out", "ASKED"], "max_tokens was another (9) when"),
    "not a series": (["run", "PLAN", "--out", "PLAN"], "is not a series"),
    "report of nothing": (["report", "nowhere"], "there is no series nowhere"),
    "report of something else": (["report", "PLAN"], "is not a series"),
    "report named after a series without an ending": (["report", "OLD"], "that is a file: name one with --out"),
    "report into a file": (["report", "OLD", "--out", "PLAN"], "is a file: name a folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    old = tmp_path / "old"
    with Series(old, create=True) as stored:
        stored.enrol([ProbedEndpoint("a", "west", "http://127.0.0.1:9/v1", "big")])
        stored.add(Measurement("a", SystemClock().wall() - 60, 0.5, 0.02, 8))
    asked = shutil.copy(old, tmp_path / "asked")
    words, line = MISTAKES[name]
    places = {"PLAN": plan(tmp_path, b="http://127.0.0.1:9/v1"), "OLD": str(old), "ASKED": str(asked)}
    with Series(asked) as stored:
        stored.settle(msgspec.structs.replace(read_plan(Path(places["PLAN"])), max_tokens=9))
    code, out, err = run("probe", *(places.get(word, word) for word in words))
    assert (code, out) == (ExitCode.USAGE, "")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM endpoints",
        "UPDATE measurements SET at = 1e300",
        "UPDATE measurements SET at = -1e300",
        "UPDATE measurements SET at = 9e999",
        "UPDATE measurements SET at = 253402300800.0",
        "UPDATE measurements SET first_token = 9e999",
        "UPDATE measurements SET per_token = -1.0",
        "UPDATE endpoints SET region = ''",
        "UPDATE endpoints SET region = char(27)",
        "UPDATE endpoints SET name = CAST(x'ff' AS TEXT)",
        "DROP TABLE measurements",
    ],
)
def test_a_damaged_series_is_one_line(run: Run, series: Path, damage: str) -> None:
    with contextlib.closing(sqlite3.connect(series, isolation_level=None)) as database:
        database.execute(damage)
    code, out, err = run("probe", "report", str(series))
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert f"{series} is " in err and "damaged" in err


def test_a_series_of_absurd_times_does_not_go_on(run: Run, tmp_path: Path, series: Path) -> None:
    with contextlib.closing(sqlite3.connect(series, isolation_level=None)) as database:
        database.execute("INSERT INTO measurements VALUES ('a', 1e300, 0.5, 0.02, 8, NULL)")
    code, _, err = run("probe", "run", plan(tmp_path, b="http://127.0.0.1:9/v1"), "--out", str(series))
    assert (code, err.count("\n")) == (ExitCode.USAGE, 1)
    assert f"{series} is damaged" in err


def test_a_key_that_is_not_set_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROBE_KEY")
    out = tmp_path / "load.sqlite3"
    code, _, err = run("probe", "run", plan(tmp_path, a="http://127.0.0.1:9/v1"), "--out", str(out))
    assert code == ExitCode.USAGE
    assert err == "wanspec: PROBE_KEY is not set: endpoint 'a' needs its key there\n"
    assert not out.exists()


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))


@pytest.mark.usefixtures("no_matplotlib")
def test_drawing_without_matplotlib_says_what_to_install(run: Run, series: Path) -> None:
    code, _, err = run("probe", "report", str(series))
    assert (code, err.count("\n")) == (ExitCode.USAGE, 1)
    assert "matplotlib" in err


@pytest.mark.usefixtures("no_matplotlib")
def test_json_does_without_matplotlib(run: Run, tmp_path: Path, series: Path) -> None:
    code, out, err = run("probe", "report", str(series), "--json")
    assert (code, err) == (0, "wanspec: matplotlib is not installed, so no figure is drawn\n")
    assert json.loads(out)["regions"][0]["name"] == "west"
    assert {file.name for file in (tmp_path / "load").iterdir()} == {"load-map.json", "scenario.toml"}


def test_a_wrong_key_is_noticed_at_once_and_names_its_variable(run: Run, tmp_path: Path) -> None:
    with serving(FakeOpenAI(key="sk-right")) as url:
        arguments = ("probe", "run", plan(tmp_path, a=url), "--out", str(tmp_path / "new"), "--duration", "0.1s")
        code, _, err = run(*arguments)
    assert (code, err) == (0, "wanspec: a fails (http 401): see whether PROBE_KEY holds its key\n")


def test_an_endpoint_is_told_of_when_it_begins_to_fail_and_when_it_answers_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = _Watch(read_plan(Path(plan(tmp_path, a="http://127.0.0.1:9/v1", b="http://127.0.0.1:9/v1"))))
    for failure in (None, "http 503", "timeout", None, None, "http 403"):
        watch(Measurement("a", 0.0, failure=failure))
        watch(Measurement("b", 0.0, 0.5))
    assert capsys.readouterr().err.splitlines() == [
        "wanspec: a fails (http 503)",
        "wanspec: a answers again",
        "wanspec: a fails (http 403): see whether PROBE_KEY holds its key",
    ]
