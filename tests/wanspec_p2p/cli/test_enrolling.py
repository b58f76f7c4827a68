"""`join` and `run` ask the coordinator before a model is fetched, converted or loaded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.admin import issue_join_token, peers, revoke_peer
from coordinator.settings import CoordinatorSettings
from node import daemon
from tests.support.past_coordinators import once_run
from tests.support.whole_network import coordinator_in_a_thread
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.locking import locked
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.target import service
from wanspec_p2p.types import Role

USED = "the join token has been used already: ask for a new one"
MODELS = {"node": "smollm2-draft", "target": "smollm2-135m"}


@pytest.fixture
def settings(tmp_path: Path) -> CoordinatorSettings:
    return once_run(tmp_path / "there")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that were to be fetched: there the command is interrupted."""
    asked: list[str] = []

    def path(self: Catalog, name: str) -> Path:
        asked.append(name)
        raise KeyboardInterrupt

    def load(*args: object, **kwargs: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(Catalog, "path", path)
    for module in (daemon, service):
        monkeypatch.setattr(module, "load_language_model", load)
    return asked


def join(run: Run, role: str, token: str, data: Path, *flags: str) -> tuple[int, list[str]]:
    """The exit code, and what was said on stderr; the coordinator's log, which is there as well, left out."""
    code, out, err = run(role, "join", token, "--model", MODELS[role], "--data-dir", str(data), *flags)
    assert out == ""
    return code, [line for line in err.splitlines() if "[info" not in line]


@pytest.mark.parametrize("role", ["node", "target"])
def test_a_used_token_is_one_line_before_anything_is_fetched_or_loaded(
    run: Run, settings: CoordinatorSettings, prepared: list[str], tmp_path: Path, role: str
) -> None:
    with coordinator_in_a_thread(settings):
        token = issue_join_token(settings, role=Role(role)).encode()
        assert join(run, role, token, tmp_path / "first") == (ExitCode.INTERRUPTED, [])
        assert prepared == [MODELS[role]]  # which shows that the model is not there, and would be fetched
        assert join(run, role, token, tmp_path / "second") == (ExitCode.REFUSED, [f"wanspec: {USED}"])
        code, said = join(run, role, token, tmp_path / "second", "--log-json")
        last = [json.loads(line) for line in said][-1]
        assert (code, last["event"], last["reason"], last["exit_code"]) == (ExitCode.REFUSED, "failed", USED, 3)
        assert prepared == [MODELS[role]]
        # Who was let in before the model was there needs no token any more, unless it is revoked.
        assert run(role, "run", "--model", MODELS[role], "--data-dir", str(tmp_path / "first"))[0] == 130
        assert prepared == [MODELS[role]] * 2
        revoke_peer(settings, peers(settings)[0].peer)
        code, _, err = run(role, "run", "--model", MODELS[role], "--data-dir", str(tmp_path / "first"))
        assert code == ExitCode.REFUSED
        assert err.splitlines()[-1] == "wanspec: this key is not enrolled here: join with a token first"
    assert prepared == [MODELS[role]] * 2


@pytest.mark.parametrize("role", ["node", "target"])
def test_without_a_coordinator_the_model_is_prepared_after_one_line(
    run: Run, settings: CoordinatorSettings, prepared: list[str], tmp_path: Path, role: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    token = issue_join_token(settings, role=Role(role), url=url).encode()
    code, said = join(run, role, token, tmp_path / "mine")
    assert (code, prepared) == (ExitCode.INTERRUPTED, [MODELS[role]])
    (line,) = said
    assert "no coordinator yet: it is asked again when the model is ready" in line and "nobody answers at" in line


def test_a_token_of_no_use_is_refused_before_anybody_is_dialled(
    run: Run, settings: CoordinatorSettings, prepared: list[str], tmp_path: Path
) -> None:
    token = issue_join_token(settings, role=Role.NODE, url="http://127.0.0.1:9").encode()
    for role, wrong, words in (("target", token, "admits a node, not a target"), ("node", "nonsense", "join token")):
        code, said = join(run, role, wrong, tmp_path / "mine")
        assert (code, prepared) == (ExitCode.REFUSED, [])
        assert len(said) == 1 and said[0].startswith("wanspec: ") and words in said[0]


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """What listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def deaf_ones_token(deaf: socket.socket) -> str:
    url, key = f"ws://127.0.0.1:{deaf.getsockname()[1]}", Identity.generate().public_key
    return JoinToken(url, key, None, "s", Role.NODE, "default", 2**40).encode()


def test_showing_the_settings_dials_nobody(run: Run, prepared: list[str], tmp_path: Path, deaf: socket.socket) -> None:
    where = ("--data-dir", str(tmp_path / "mine"), "--show-config")
    assert run("node", "join", deaf_ones_token(deaf), *where)[0] == ExitCode.OK
    deaf.setblocking(False)
    with pytest.raises(BlockingIOError):
        deaf.accept()
    assert prepared == [] and not (tmp_path / "mine").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_while_it_waits_for_an_answer(
    run: Run, prepared: list[str], tmp_path: Path, deaf: socket.socket, number: signal.Signals
) -> None:
    def interrupt() -> None:
        with contextlib.suppress(TimeoutError), deaf.accept()[0]:
            os.kill(os.getpid(), number)
            done.wait(20)

    done = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        answer = run("node", "join", deaf_ones_token(deaf), "--data-dir", str(tmp_path / "mine"))
    finally:
        done.set()
        thread.join(20)
    assert (answer, prepared) == ((ExitCode.INTERRUPTED, "", ""), [])


@pytest.mark.parametrize("role", ["node", "target"])
def test_the_second_on_a_data_directory_does_not_ask(
    run: Run, prepared: list[str], tmp_path: Path, deaf: socket.socket, role: str
) -> None:
    with locked(tmp_path / "mine" / f"{role}.lock", role):
        code, _, err = run(role, "join", deaf_ones_token(deaf), "--data-dir", str(tmp_path / "mine"))
    assert code == ExitCode.USAGE and f"another {role} (process" in err and err.count("\n") == 1
