"""Services for all clients of a run, and the environments the clients live in (docs/how-to/use-from-openai-clients.md).

Each client has a virtual environment of its own, in the directory that WANSPEC_INTEROP names, under its own name. One
that is not there is skipped with a reason.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_services import MODEL, Services, running_services

SECONDS = 120
"""The longest a client may take; most of it is its own start."""
NO_ENVIRONMENTS = "WANSPEC_INTEROP names no directory of environments: make interop"
CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    if not os.environ.get("WANSPEC_INTEROP"):
        pytest.skip(NO_ENVIRONMENTS)
    with running_services(tmp_path_factory.mktemp("services")) as services:
        yield services


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], Path]:
    """The path of a program in a client's environment; skips the test where there is none."""

    def find(client: str, name: str) -> Path:
        where = os.environ.get("WANSPEC_INTEROP")
        if not where:
            pytest.skip(NO_ENVIRONMENTS)
        path = Path(where) / client / "bin" / name
        if not path.exists():
            pytest.skip(f"there is no environment {client} with {name} in WANSPEC_INTEROP")
        return path

    return find


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A foreign program to its end, with nobody's settings and a home of its own."""

    def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", **variables}
        return subprocess.run(
            [str(word) for word in command],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return run


@pytest.fixture
def report_of(
    program: Callable[[str, str], Path], services: Services, run: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[[str], Any]:
    """What a script of `clients` saw of the services, in its client's environment."""

    def report(client: str) -> Any:
        python = program(client, "python")
        done = run(python, CLIENTS / f"with_{client}.py", services.url, services.key, MODEL)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return report
