from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_coordinator import NODE_A, Commit, FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    fake = FakeCoordinator()
    with serving(fake) as url:
        monkeypatch.setenv("WANSPEC_COORDINATOR", url)
        yield fake


def stdin(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content))


def test_piped_it_is_the_text_and_nothing_else(run: Run, fake: FakeCoordinator) -> None:
    assert run("prompt", "Why?") == (0, "The sky is blue.\n", "")


def test_piped_text_is_passed_on_to_the_letter(run: Run, fake: FakeCoordinator) -> None:
    fake.script = (Commit("a\x1b[1m[b]\r\n", (1,), (None,)),)
    assert run("prompt", "Why?")[1] == "a\x1b[1m[b]\r\n\n"


def test_on_a_terminal_the_text_is_coloured_and_cannot_command_it(
    run: Run, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    fake.script = (Commit("so\x1b[2J", (1,), (NODE_A,)),)
    code, out, err = run("prompt", "Why?")
    assert (code, out) == (0, "\x1b[96mso\ufffd[2J\x1b[0m\n")
    assert err == "\x1b[96mlab-a 1\x1b[0m\n"


def test_options_reach_the_coordinator(run: Run, fake: FakeCoordinator) -> None:
    code, _, _ = run(
        *("prompt", "Why?", "--max-tokens", "5", "--temperature", "0.8", "--seed", "3", "--top-p", "0.9"),
        *("--top-k", "4", "--privacy", "private", "--no-network"),
    )
    assert code == 0
    (asked,) = fake.requests
    assert (asked["max_tokens"], asked["temperature"], asked["seed"]) == (5, 0.8, 3)
    assert (asked["top_p"], asked["top_k"]) == (0.9, 4)
    assert asked["wanspec"] == {"privacy": "private", "network": False}


def test_what_is_not_given_is_left_to_the_coordinator(run: Run, fake: FakeCoordinator) -> None:
    run("prompt", "Why?", "--model", "smollm2-135m")
    assert set(fake.requests[0]) == {"model", "messages", "stream", "stream_options"}


def test_json_is_one_object_with_the_origin_of_every_token(run: Run, fake: FakeCoordinator) -> None:
    code, out, _ = run("prompt", "Why?", "--json")
    answer = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (answer["text"], answer["token_ids"]) == (fake.text, list(fake.ids))
    assert answer["origins"][1] == NODE_A and answer["finish_reason"] == "stop"
    assert answer["speculation"]["won_by_peer"][NODE_A] == 2
    page = (Path(__file__).parents[3] / "docs/reference/cli.md").read_text(encoding="utf-8")
    section = page.partition("## wanspec prompt")[2].partition("\n## ")[0]
    missing = {key for key in (*answer, *answer["usage"], *answer["speculation"]) if f"`{key}`" not in section}
    assert not missing, "every key is described"


def test_the_message_may_come_from_stdin(run: Run, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", stdin("from a file\r\n…".encode()))
    run("prompt", "-", "--raw")
    assert fake.requests[0]["prompt"] == "from a file\r\n…"


def test_stdin_that_holds_no_text_is_one_line(
    run: Run, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", stdin("Größe".encode("latin-1")))
    says = "the text on stdin is not UTF-8 (byte 3): convert it, as `iconv -t UTF-8` does"
    assert run("prompt", "-") == (ExitCode.USAGE, "", f"wanspec: {says}\n")
    monkeypatch.setattr("sys.stdin", None)  # as Python has it where stdin is closed
    says = "stdin is closed: give the text itself, or - and a text on stdin"
    assert run("prompt", "-") == (ExitCode.USAGE, "", f"wanspec: {says}\n")
    with (
        (tmp_path / "written").open("wb", buffering=0) as written,
        os.fdopen(written.fileno(), closefd=False) as closed,
    ):
        monkeypatch.setattr("sys.stdin", closed)
        says = "stdin cannot be read (Bad file descriptor): give the text itself"
        assert run("prompt", "-") == (ExitCode.USAGE, "", f"wanspec: {says}\n")
    assert fake.requests == []


@pytest.mark.parametrize("arguments", [("\udcff",), ("Why?", "--temperature", "nan")])
def test_what_cannot_be_sent_is_one_line(run: Run, fake: FakeCoordinator, arguments: tuple[str, ...]) -> None:
    code, out, err = run("prompt", *arguments)
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert "should not have happened" not in err and fake.requests == []


@pytest.mark.parametrize("wrong", [("--top-p", "0"), ("--top-p", "nan"), ("--top-p", "1.1"), ("--temperature", "101")])
def test_what_no_coordinator_would_take_is_refused_before_anybody_is_asked(
    run: Run, fake: FakeCoordinator, wrong: tuple[str, str]
) -> None:
    code, out, err = run("prompt", "Why?", *wrong)
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert wrong[0] in err and fake.requests == []


@pytest.mark.parametrize(
    ("arguments", "given"), [(("",), ""), ((" \n",), ""), (("-",), ""), (("-",), "\n"), (("", "--raw"), "")]
)
def test_an_empty_prompt_is_refused_before_anybody_is_asked(
    run: Run, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], given: str
) -> None:
    monkeypatch.setattr("sys.stdin", stdin(given.encode()))
    code, out, err = run("prompt", *arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == "wanspec: the prompt is empty: give a text, or - and a text on stdin\n"
    assert fake.requests == []


def test_white_space_may_be_continued(run: Run, fake: FakeCoordinator) -> None:
    assert run("prompt", "\n", "--raw")[0] == 0
    assert fake.requests[0]["prompt"] == "\n"


def test_failures_are_one_line_each(run: Run, fake: FakeCoordinator) -> None:
    fake.fail_after, fake.error = 1, {"message": "the target is gone", "code": "target_lost"}
    assert run("prompt", "Why?") == (ExitCode.FAILURE, "The", "wanspec: the target is gone\n")
    fake.status, fake.error = 400, {"message": "9 tokens too many", "code": "context_length_exceeded"}
    assert run("prompt", "Why?", "--model", "m") == (ExitCode.USAGE, "", "wanspec: 9 tokens too many\n")
    fake.status, fake.error = 404, {"message": "no model m here", "code": "model_not_found"}
    assert run("prompt", "Why?", "--model", "m") == (ExitCode.MODEL, "", "wanspec: no model m here\n")


def test_nobody_there_is_one_line(run: Run) -> None:
    with serving(FakeCoordinator()) as url:
        pass
    code, out, err = run("prompt", "Why?", "--coordinator", url)
    assert (code, out) == (ExitCode.UNREACHABLE, "")
    assert err == f"wanspec: nobody answers at {url}: is the coordinator running?\n"
