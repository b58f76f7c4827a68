from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.typed_commands import Terminals, environment_of

SERVICE = "trap 'exit 0' INT; echo it is ready; while :; do sleep 0.1; done"


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    with Terminals(tmp_path, environment_of(tmp_path, "tests.support.nobody", MINE="yes")) as terminals:
        yield terminals


def test_a_command_has_a_home_and_nobody_elses_variables(terminals: Terminals, tmp_path: Path) -> None:
    assert terminals.run('echo "$HOME $MINE $PWD"').strip() == f"{tmp_path}/home yes {tmp_path}"


def test_what_is_exported_holds_for_the_next(terminals: Terminals) -> None:
    terminals.run("export KEY='a b'")
    assert terminals.run('echo "$KEY"') == "a b\n"
    assert "a b" in terminals.start("one", f'echo "$KEY"; {SERVICE}', ready="ready")


def test_another_status_is_wrong_unless_it_is_expected(terminals: Terminals) -> None:
    assert terminals.run("exit 3", status=3) == ""
    with pytest.raises(AssertionError, match="ended with status 1:\nso it is"):
        terminals.run("echo so it is; false | cat")


def test_wanspec_is_the_program_that_was_named(terminals: Terminals) -> None:
    assert "No module named tests.support.nobody" in terminals.run("wanspec version", status=1)
    assert "nobody" in terminals.run(". .venv/bin/activate; wanspec", status=1)


def test_a_service_is_ready_and_ends_with_its_terminal(terminals: Terminals) -> None:
    before = set(psutil.Process().children(recursive=True))
    terminals.start("one", SERVICE, ready="it is ready")
    terminals.start("one", SERVICE, ready="it is ready")
    (shell,) = {child for child in set(psutil.Process().children()) - before if child.is_running()}
    terminals.stop()
    assert not shell.is_running()


def test_a_service_that_ends_by_itself_is_wrong(terminals: Terminals) -> None:
    with pytest.raises(AssertionError, match="ended with status 2:\nno room"):
        terminals.start("one", "echo no room; exit 2", ready="it is ready")


def test_a_service_that_ends_badly_is_wrong(terminals: Terminals) -> None:
    terminals.start("one", SERVICE.replace("exit 0", "exit 5"), ready="it is ready")
    with pytest.raises(AssertionError, match="ended with status 5"):
        terminals.stop("one")
