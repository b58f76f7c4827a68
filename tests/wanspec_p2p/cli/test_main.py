from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.support.past_coordinators import once_run
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p import __version__
from wanspec_p2p.cli import main as door
from wanspec_p2p.cli.output import emit
from wanspec_p2p.errors import ExitCode, Unreachable


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """A command whose failure the test chooses."""
    failure: dict[str, BaseException] = {}
    app = typer.Typer()

    @app.command()
    def one() -> None:
        raise failure["error"]

    @app.command()
    def other() -> None:
        pass

    monkeypatch.setattr(door, "app", app)
    return failure


def test_version(run: Run) -> None:
    assert run("version") == run("--version") == (0, f"wanspec {__version__}\n", "")
    code, out, _ = run("version", "--json")
    assert code == 0 and json.loads(out)["version"] == __version__


def test_a_users_mistake_is_one_line_and_its_exit_code(run: Run, broken: dict[str, BaseException]) -> None:
    broken["error"] = Unreachable("nobody answers\nat all")
    assert run("one") == (ExitCode.UNREACHABLE, "", "wanspec: nobody answers at all\n")


def test_an_interrupt_is_130_and_silent(run: Run, broken: dict[str, BaseException]) -> None:
    broken["error"] = KeyboardInterrupt()
    assert run("one") == (ExitCode.INTERRUPTED, "", "")


def test_a_bug_is_one_line_that_says_how_to_see_more(run: Run, broken: dict[str, BaseException]) -> None:
    broken["error"] = ZeroDivisionError("division by zero")
    code, out, err = run("one")
    assert (code, out) == (ExitCode.FAILURE, "")
    assert err.startswith("wanspec: this should not have happened: ZeroDivisionError: division by zero (run it again")
    assert err.count("\n") == 1 and "Traceback" not in err


def test_an_argument_that_is_no_text_is_its_givers_mistake(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_run(home / ".local/share/wanspec/coordinator")
    says = "wanspec: the argument k\\udcff is not UTF-8: give it in UTF-8\n"
    assert run("coordinator", "key", "k\udcff") == (ExitCode.USAGE, "", says)
    assert run("coordinator", "token", "--pool", "k\udcff", "--url", "ws://127.0.0.1:1")[0] == ExitCode.USAGE
    assert run("coordinator", "key", "k")[0] == 0, "nothing was kept of the other"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_terminal_cannot_show_is_spelt_out(home: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    code = door.main(["doctor"])
    screen.flush()
    said = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # a BytesIO
    assert code in (ExitCode.OK, ExitCode.FAILURE)
    assert said.startswith("✓ python: " if encoding == "utf-8" else "\\N{CHECK MARK} python: ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_json_whatever_stdout_can_show(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="namereplace")
    monkeypatch.setattr(sys, "stdout", screen)
    emit({"text": "a → \U0001f600"})
    said = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # a BytesIO
    assert json.loads(said) == {"text": "a → \U0001f600"}


@pytest.mark.parametrize(
    "command", [("status",), ("node", "run"), ("models", "list"), ("node", "service", "status"), ("doctor",)]
)
def test_a_user_without_a_home_is_told_so(run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    says = "wanspec: this user has no home directory: name one in the variable HOME\n"
    assert run(*command) == (ExitCode.USAGE, "", says)


def test_half_a_surrogate_pair_that_nobody_gave_is_a_bug(run: Run, broken: dict[str, BaseException]) -> None:
    broken["error"] = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    code, _, err = run("one")
    assert code == ExitCode.FAILURE and err.startswith("wanspec: this should not have happened: UnicodeEncodeError")


def test_with_wanspec_debug_the_traceback_comes_too(
    run: Run, broken: dict[str, BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANSPEC_DEBUG", "1")
    broken["error"] = ZeroDivisionError("division by zero")
    _, _, err = run("one")
    assert err.startswith("Traceback") and err.splitlines()[-1].startswith("wanspec: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nonsense",), "wanspec: No such command 'nonsense'; see wanspec --help\n"),
        (("node", "join"), "wanspec: Missing argument 'TOKEN'; see wanspec node join --help\n"),
        (("version", "--nonsense"), "wanspec: No such option: --nonsense; see wanspec version --help\n"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, arguments: tuple[str, ...], line: str) -> None:
    assert run(*arguments) == (ExitCode.USAGE, "", line)


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    code, out, err = run()
    assert code == ExitCode.USAGE and out.startswith("Usage: wanspec") and err == ""


def test_help_loads_nothing_heavy() -> None:
    """torch, web clients and the services load where they are used, not before."""
    program = (
        "import sys\n"
        "from wanspec_p2p.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'httpx2', 'coordinator', 'node', 'numpy', 'rich'}\n"
        "sys.exit(f'loaded: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout
