from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from wanspec_p2p.cli import running

PROGRAM = """
import asyncio, sys, time, types, typer, structlog, warnings
from wanspec_p2p.errors import PeerRefused
from wanspec_p2p.cli.running import serve

async def service(settings, *, ready=None, stop=None):
    if "loading" in sys.argv:
        print("loading", flush=True)
        await asyncio.to_thread(time.sleep, 600)
    if settings.log_json:
        structlog.get_logger("node").info("joined")
        warnings.warn("this is old", UserWarning, stacklevel=1)
    ready(settings.where)
    if sys.argv[-1] in ("refused", "broken"):
        raise PeerRefused(4002, "not enrolled") if sys.argv[-1] == "refused" else RuntimeError("a bug")
    await stop.wait()
    print("drained", flush=True)
    if sys.argv[4:] == ["stuck"]:
        await asyncio.Event().wait()

class Context:
    params = {"json": sys.argv[1] == "json", "with_parent": sys.argv[2] == "parent"}

settings = types.SimpleNamespace(where=sys.argv[3], log_json="logged" in sys.argv)
try:
    serve(service, settings, name="node", context=Context)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


def start(*arguments: str, ignoring_hangup: bool = False) -> subprocess.Popen[str]:
    """Whatever started the tests: who ignores the end of the terminal, as `nohup` has it, hands that on."""
    if HANGUP is not None:
        before = signal.signal(HANGUP, signal.SIG_IGN if ignoring_hangup else signal.SIG_DFL)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        if HANGUP is not None:
            signal.signal(HANGUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP else [])])
def test_the_first_signal_drains_and_the_exit_code_is_0(number: signal.Signals) -> None:
    with start("json", "alone", "http://x:1") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"event": "ready", "url": "http://x:1"}
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "drained\n", "")


def test_the_second_signal_ends_it_at_once() -> None:
    with start("json", "alone", "http://x:1", "stuck") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.stdout.readline() == "drained\n"
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.skipif(HANGUP is None, reason="POSIX")
def test_what_nohup_started_outlives_its_terminal() -> None:
    assert HANGUP is not None
    with start("json", "alone", "http://x:1", ignoring_hangup=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(HANGUP)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0, "the second signal was the first that counted"


def test_what_is_still_being_loaded_is_not_waited_for() -> None:
    with start("json", "alone", "http://x:1", "loading") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and "left before it was ready" in err


def test_with_parent_the_end_of_stdin_is_the_order_to_stop() -> None:
    with start("json", "parent", "a" * 32) as process:
        assert process.stdout is not None and process.stdin is not None
        assert json.loads(process.stdout.readline()) == {"event": "ready", "peer": "a" * 32}
        process.stdin.close()
        assert process.stdout.read() == "drained\n"
        assert process.wait(20) == 0


def test_for_people_the_ready_line_is_words_on_stderr() -> None:
    with start("words", "alone", "http://x:1") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "node is ready: http://x:1\n"
        os.kill(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert out == "drained\n"


def test_logs_are_as_the_settings_have_them_wherever_these_came_from() -> None:
    with start("json", "parent", "http://x:1", "logged") as process:
        _, err = process.communicate("", timeout=20)
    assert json.loads(err.splitlines()[0])["event"] == "joined"


def test_where_logs_are_json_nothing_else_is_on_stderr() -> None:
    with start("words", "parent", "http://x:1", "logged") as process:
        out, err = process.communicate("", timeout=20)
    assert (process.returncode, out) == (0, "drained\n")
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["joined", "this is old"]


@pytest.mark.parametrize(
    ("how", "reason", "code"),
    [("refused", "not enrolled", 3), ("broken", "this should not have happened: RuntimeError: a bug", 1)],
)
def test_where_logs_are_json_the_error_that_ends_it_is_a_line_of_the_log(how: str, reason: str, code: int) -> None:
    with start("words", "alone", "http://x:1", "logged", how) as process:
        _, err = process.communicate("", timeout=20)
    assert process.returncode == code
    _, _, last = [json.loads(line) for line in err.splitlines()]
    assert (last["event"], last["level"], last["reason"], last["exit_code"]) == ("failed", "error", reason, code)
    assert ("exception" in last) is (how == "broken")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_service_may_open_as_many_files_as_the_system_allows() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
        running._room_for_sockets()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_system_that_names_no_limit_and_has_one_gives_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    asked: list[tuple[int, int]] = []

    def give(which: int, wanted: tuple[int, int]) -> None:
        asked.append(wanted)
        if wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", give)
    running._room_for_sockets()
    assert asked[-1] == (running.MACOS_MOST, resource.RLIM_INFINITY)
