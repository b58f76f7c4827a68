from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import structlog

from wanspec_p2p import logs


def test_json_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=True)
    structlog.get_logger("node").info("joined", pool="default")
    out, err = capsys.readouterr()
    assert out == ""
    line = json.loads(err)
    assert (line["event"], line["pool"], line["level"]) == ("joined", "default", "info")
    assert "timestamp" in line


def test_lines_for_people_have_no_colours_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)
    structlog.get_logger("node").info("joined", pool="default")
    structlog.get_logger("node").debug("session declined")
    _, err = capsys.readouterr()
    assert "joined" in err
    assert "pool=default" in err
    assert "\x1b[" not in err
    assert "session declined" not in err


def test_a_command_may_say_less(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False, level=logging.WARNING)
    structlog.get_logger("node").info("joined")
    structlog.get_logger("node").warning("a node was not admitted")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "a node was not admitted" in err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_does_not_show_what_variables_held(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure(json=as_json)
    prompt = "xyz" * 3
    try:
        assert prompt == ""
    except AssertionError as error:
        structlog.get_logger("node").error("a bug", exc_info=ValueError("bad").with_traceback(error.__traceback__))
    _, err = capsys.readouterr()
    assert "ValueError" in err
    assert "xyzxyzxyz" not in err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_peers_words_stay_on_their_line(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure(json=as_json)
    structlog.get_logger("node").info("target lost", reason="bye\n2026 joined\x1b[2J", site="Zürich")
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert as_json or "Zürich" in err


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_library_warns_of_is_a_line_like_any_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    library = logging.getLogger("a library nobody listens to")
    monkeypatch.setattr(library, "propagate", False)  # pytest does listen, further up
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    logs.configure(json=as_json)
    library.info("all is well")
    library.warning("Invalid %s received.\n", "request\x1b[2J")
    try:
        raise ValueError("bad")
    except ValueError:
        library.exception("a task failed")
    _, err = capsys.readouterr()
    assert "all is well" not in err and "\x1b" not in err
    warning, failure = err.splitlines()[:2]
    if not as_json:
        assert "Invalid request" in warning and library.name in warning and "Traceback" in err
        return
    assert err.count("\n") == 2
    line = json.loads(warning)
    assert (line["event"], line["level"]) == ("Invalid request\x1b[2J received.", "warning")
    assert line["logger"] == library.name and "exc_info" not in line
    assert json.loads(failure)["exception"][0]["exc_value"] == "bad"


def unheard_library(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Whose records nobody takes but we, in JSON."""
    library = logging.getLogger("a library nobody listens to")
    monkeypatch.setattr(library, "propagate", False)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    logs.configure(json=True)
    return library


def say(library: logging.Logger, words: str, at: float, error: BaseException | None = None) -> None:
    raised = None if error is None else (type(error), error, None)
    record = library.makeRecord(library.name, logging.ERROR, __file__, 1, words, (), raised)
    record.created = at
    library.handle(record)


def test_a_library_that_says_the_same_without_end_does_not_fill_the_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = unheard_library(monkeypatch)
    for moment in range(1000):
        say(library, f"no file is left\nsocket: {moment}", 100.0 + moment / 1000)
    say(library, "something else", 101.0)
    say(library, "no file is left", 101.0, OSError("of another kind"))
    say(library, "no file is left", 110.5)
    say(library, "no file is left", 110.6)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"].partition("\n")[0] for line in lines] == [
        *["no file is left"] * logs.REPEATS,
        "something else",
        *["no file is left"] * 3,
    ]
    assert [line.get("unsaid") for line in lines[-2:]] == [1000 - logs.REPEATS, None]


def test_what_a_library_says_is_counted_within_bounds_and_when_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = unheard_library(monkeypatch)
    for number in range(3 * logs.MAX_SAYINGS):
        say(library, f"saying {number}", 100.0)
    handler = logging.lastResort
    assert isinstance(handler, logs._Libraries) and len(handler._sayings) <= logs.MAX_SAYINGS
    for at in (*[100.0] * 9, 40.0):
        say(library, "the same", at)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 3 * logs.MAX_SAYINGS + logs.REPEATS + 1 and lines[-1]["unsaid"] == 4


def test_a_line_that_has_to_be_escaped_is_logged_when_no_file_can_be_opened() -> None:
    program = """
import resource, structlog
from wanspec_p2p import logs
logs.configure(json=False)
structlog.get_logger().info("first")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
structlog.get_logger().info("two\\nlines")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "two\\nlines" in done.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_a_warning_of_pythons_is_a_line_like_any_other(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure(json=as_json)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is old\x1b[2J", DeprecationWarning, stacklevel=1)
        elsewhere = io.StringIO()
        warnings.showwarning("for a file", UserWarning, "here.py", 7, elsewhere)
    assert elsewhere.getvalue() == "here.py:7: UserWarning: for a file\n"
    _, err = capsys.readouterr()
    assert err.count("\n") == 1 and "\x1b" not in err
    if not as_json:
        assert "[warning" in err and "this is old" in err and f"where={__file__}:" in err
        return
    line = json.loads(err)
    assert (line["event"], line["level"], line["logger"]) == ("this is old\x1b[2J", "warning", "py.warnings")
    assert line["category"] == "DeprecationWarning" and line["where"].startswith(f"{__file__}:")


def test_what_python_itself_says_of_failures_is_json_where_logs_are(capsys: pytest.CaptureFixture[str]) -> None:
    class Fragile:
        def __del__(self) -> None:
            raise ValueError("ignored")

    def fail() -> None:
        raise ValueError("in a thread")

    logs.configure(json=True)
    Fragile()
    for work in (fail, sys.exit):  # which ends the thread, as it should
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    ignored, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ignored["event"], ignored["level"]) == ("an exception that nobody could catch", "error")
    assert ignored["exception"][0]["exc_value"] == "ignored"
    assert failed["event"] == "a thread ended with an exception"
    assert failed["exception"][0]["exc_value"] == "in a thread" and failed["exception"][0]["frames"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("as_json", [True, False])
def test_a_full_disk_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    full = Path("/dev/full").open("w", encoding="utf-8")
    monkeypatch.setattr("sys.stderr", full)
    logs.configure(json=as_json)
    for number in range(3):
        assert structlog.get_logger("node").info("joined", number=number) is None
    with contextlib.suppress(OSError):  # what it still holds cannot be written either
        full.close()
    structlog.get_logger("node").info("the stream is closed")
