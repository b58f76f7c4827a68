from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import msgspec
import pytest

from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.client.series import Measurement, Series
from wanspec_p2p.errors import ConfigError

A = ProbedEndpoint("a", "west", "https://west.example/v1", "big", api_key_env="WEST_KEY")
B = ProbedEndpoint("b", "east", "https://east.example/v1", "big", synthetic=True)
FOUND = [Measurement("b", 20.0, failure="timeout"), Measurement("a", 10.0, 0.5, 0.02, 32)]


def test_what_is_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "series"
    with Series(file, create=True) as series:
        assert series.begun() is None
        series.enrol([A, B])
        for measurement in FOUND:
            series.add(measurement)
    with Series(file) as series:
        assert list(series.measurements()) == sorted(FOUND, key=lambda m: m.at)
        assert series.begun() == 10.0
        # Where a key was is not stored either.
        assert series.endpoints() == [msgspec.structs.replace(A, api_key_env=None), B]


KILLED = """
import os, signal, sys
from pathlib import Path
from wanspec_p2p.client.probe_plan import ProbedEndpoint, ProbePlan
from wanspec_p2p.client.series import Measurement, Series
series = Series(Path(sys.argv[1]), create=True)
series.enrol([ProbedEndpoint("a", "west", "https://west.example/v1", "big")])
for number in range(100):
    series.add(Measurement("a", float(number), 0.5, 0.02, 32))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "series"
    done = subprocess.run([sys.executable, "-c", KILLED, os.fspath(file)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with Series(file, create=True) as series:
        assert [m.at for m in series.measurements()] == [float(number) for number in range(100)]
        series.add(FOUND[1])


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "series"
    with Series(file, create=True) as writer, Series(file) as reader:
        writer.enrol([A])
        writer.add(FOUND[1])
        assert [astuple(m) for m in reader.measurements()] == [astuple(FOUND[1])]


@pytest.mark.parametrize("changes", [{"region": "east"}, {"base_url": "https://x.example/v1"}, {"model": "small"}])
def test_an_endpoint_that_was_another_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    with Series(tmp_path / "series", create=True) as series:
        series.enrol([A])
        series.enrol([A, B])  # as when the command is repeated, with one more
        with pytest.raises(ConfigError, match="endpoint 'a' was another"):
            series.enrol([msgspec.structs.replace(A, **changes)])


PLAN = ProbePlan((A,), prompt="Hello.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "Good-bye."}, 'prompt was another ("Hello.") when'),
        ({"max_tokens": 7}, "max_tokens was another (32) when"),
        ({"timeout": 5.0}, "timeout was another (60.0) when"),
    ],
)
def test_a_plan_that_asks_for_something_else_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    other = msgspec.structs.replace(PLAN, **changes)
    with Series(tmp_path / "series", create=True) as series:
        series.settle(other)  # nothing was measured with that
        series.settle(PLAN)
        series.enrol([A])
        series.add(FOUND[1])
        series.settle(msgspec.structs.replace(PLAN, endpoint=(A, B)))
        with pytest.raises(ConfigError) as caught:
            series.settle(other)
    assert words in str(caught.value) and "name another --out" in str(caught.value)


def test_a_long_prompt_is_not_repeated(tmp_path: Path) -> None:
    with Series(tmp_path / "series", create=True) as series:
        series.settle(msgspec.structs.replace(PLAN, prompt="word " * 1000))
        series.enrol([A])
        series.add(FOUND[1])
        with pytest.raises(ConfigError, match="prompt was another when"):
            series.settle(PLAN)


def test_a_series_that_does_not_say_what_was_asked_goes_on_and_then_says_it(tmp_path: Path) -> None:
    with Series(tmp_path / "series", create=True) as series:
        series.enrol([A])
        series.add(FOUND[1])
        series._database.execute("DROP TABLE IF EXISTS asked")
    with Series(tmp_path / "series", create=True) as series:
        series.settle(PLAN)
        with pytest.raises(ConfigError, match="timeout was another"):
            series.settle(msgspec.structs.replace(PLAN, timeout=1.0))
        assert list(series.measurements()) == [FOUND[1]]


def test_what_is_not_a_series_is_left_as_it_is(tmp_path: Path) -> None:
    text, other, empty = tmp_path / "text", tmp_path / "other", tmp_path / "empty"
    text.write_text("somebody's notes " * 100, encoding="utf-8")
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE notes (text)")
    database.close()
    empty.touch()
    for file in (text, other):
        before = file.read_bytes()
        for create in (True, False):
            with pytest.raises(ConfigError, match="not a series"):
                Series(file, create=create)
        assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="not a series"):
        Series(empty)
    with Series(empty, create=True) as series:  # a run was killed before it had begun
        assert series.endpoints() == []


def test_a_file_that_is_not_there_or_of_the_future_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no series"):
        Series(tmp_path / "series")
    with pytest.raises(ConfigError, match="cannot be used"):
        Series(tmp_path / "no such folder" / "series", create=True)
    Series(tmp_path / "series", create=True).close()
    with sqlite3.connect(tmp_path / "series") as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(ConfigError, match="newer version"):
        Series(tmp_path / "series")


def test_a_series_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Series(tmp_path / "series", create=True) as series:
        series.enrol([A])
        series._database.execute("PRAGMA query_only = ON")
        with pytest.raises(ConfigError, match="repeat the command"):
            series.add(FOUND[1])
