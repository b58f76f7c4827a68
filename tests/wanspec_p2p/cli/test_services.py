"""`coordinator`, `node` and `target`: flags become settings; the services themselves are stood in for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from coordinator import addresses
from tests.support.past_coordinators import once_run
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import coordinator, node, target
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Dtype, PeerId, Role


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings of the services that were started."""
    started: list[Any] = []

    def serve(
        service: object,
        settings: object,
        *,
        name: str,
        context: object,
        enrol: object = None,
        prepare: Any = lambda: None,
    ) -> None:
        prepare()
        started.append(settings)

    for module in (coordinator, node, target):
        monkeypatch.setattr(module, "serve", serve)
    for module in (node, target):
        monkeypatch.setattr(module, "prepare_model", lambda name, cache, *, bars: None)
    return started


def test_node_join(run: Run, served: list[Any]) -> None:
    code, _, err = run(
        *("node", "join", "TOKEN", "--model", "ngram", "--name", "lab", "--slots", "3", "--dtype", "float32"),
        *("--threads", "1", "--owner", "ada", "--site", "north", "--discover"),
    )
    assert (code, err) == (0, "")
    (settings,) = served
    assert (settings.join, settings.model, settings.name, settings.slots) == ("TOKEN", "ngram", "lab", 3)
    assert (settings.dtype, settings.threads, settings.discover) == (Dtype.FLOAT32, 1, True)
    assert (settings.owner, settings.site) == ("ada", "north")


def test_node_run_keeps_what_was_joined(run: Run, served: list[Any], tmp_path: Path) -> None:
    assert run("node", "run", "--data-dir", str(tmp_path))[0] == 0
    (settings,) = served
    assert (settings.join, settings.data_dir, settings.model) == (None, tmp_path, "smollm2-draft")


def test_a_token_may_come_from_stdin(run: Run, served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("TOKEN\nmore"))
    assert run("node", "join", "-")[0] == 0
    assert served[0].join == "TOKEN"


@pytest.mark.parametrize("service", ["node", "target"])
def test_a_token_may_come_from_the_settings_variable(
    run: Run, served: list[Any], monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setenv(f"WANSPEC_{service.upper()}_JOIN", "TOKEN")
    assert [run(service, word)[0] for word in ("join", "run")] == [0, 0]
    assert run(service, "join", "OTHER")[0] == 0
    assert [settings.join for settings in served] == ["TOKEN", "TOKEN", "OTHER"]


@pytest.mark.parametrize(
    "given", [io.StringIO(), io.StringIO("\n"), io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"), None]
)
def test_no_token_on_stdin_is_one_line(
    run: Run, served: list[Any], monkeypatch: pytest.MonkeyPatch, given: io.TextIOBase | None
) -> None:
    monkeypatch.setattr("sys.stdin", given)
    code, out, err = run("target", "join", "-")
    assert (code, out, served) == (ExitCode.REFUSED, "", [])
    assert err == "wanspec: there is no join token on stdin: its first line should be one\n"


def test_at_a_terminal_the_token_is_asked_for(run: Run, served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("TOKEN\n"))
    assert run("node", "join", "-") == (0, "", "Join token: ")
    assert served[0].join == "TOKEN"


def test_target_join_and_run(run: Run, served: list[Any]) -> None:
    assert run("target", "join", "TOKEN", "--drafters", "3", "--no-network", "--port", "7")[0] == 0
    assert run("target", "run", "--model", "smollm2-135m")[0] == 0
    joined, again = served
    assert (joined.join, joined.drafters, joined.network, joined.port) == ("TOKEN", 3, False, 7)
    assert (again.join, again.network) == (None, True)


def test_a_target_fetches_its_own_drafter_too_before_it_is_started(
    run: Run, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(target, "prepare_model", lambda name, cache, *, bars: fetched.append(name))
    assert run("target", "run", "--model", "smollm2-135m", "--local-drafter", "ngram")[0] == 0
    assert fetched == ["smollm2-135m", "ngram"]


def test_coordinator_run(run: Run, served: list[Any]) -> None:
    assert run("coordinator", "run", "--port", "9", "--advertise", "--name", "here")[0] == 0
    (settings,) = served
    assert (settings.host, settings.port, settings.advertise, settings.name) == ("127.0.0.1", 9, True, "here")


def test_contradictions_are_one_line(run: Run, served: list[Any]) -> None:
    code, out, err = run("coordinator", "run", "--tls-cert", "/c.pem")
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("wanspec: ") and "tls_cert and tls_key belong together" in err and err.count("\n") == 1
    assert run("node", "run", "--data-dir", "/x", "--name", "")[0] == ExitCode.USAGE
    assert served == []


@pytest.fixture
def place(home: Path) -> Path:
    """The data directory of a coordinator that has run."""
    return once_run(home / ".local/share/wanspec/coordinator").data_dir


def test_a_token_admits_one_peer_of_one_role(run: Run, place: Path) -> None:
    code, out, err = run("coordinator", "token", "--role", "target", "--url", "http://127.0.0.1:9", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    token = JoinToken.decode(printed["token"])
    assert (token.role, token.url, token.pool) == (Role.TARGET, "ws://127.0.0.1:9", "default")
    assert (printed["role"], printed["expires"]) == ("target", token.expires)
    plain = run("coordinator", "token", "--url", "http://127.0.0.1:9", "--pool", "lab")[1]
    assert JoinToken.decode(plain).role is Role.NODE


def test_a_token_needs_an_address(run: Run, place: Path) -> None:
    code, out, err = run("coordinator", "token")
    assert (code, out) == (ExitCode.USAGE, "") and "address is unknown" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", [("key", "ada"), ("token", "--url", "http://127.0.0.1:9")], ids=" ".join)
def test_where_no_coordinator_has_run_nothing_is_given_and_nothing_made(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    code, out, err = run("coordinator", *command, "--data-dir", str(tmp_path / "typo"))
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == f"wanspec: no coordinator has run in {tmp_path / 'typo'}: name its --data-dir\n"
    assert not (tmp_path / "typo").exists()


def test_a_token_may_be_made_before_the_first_start_of_what_has_settings(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANSPEC_COORDINATOR_PORT", "9")
    code, out, err = run("coordinator", "token")
    assert (code, JoinToken.decode(out).url) == (0, "ws://127.0.0.1:9")
    assert f"no coordinator has run in {home / '.local/share/wanspec/coordinator'} yet" in err and err.count("\n") == 1
    assert run("coordinator", "token")[2] == ""


def test_the_first_key_of_a_coordinator_that_others_reach_changes_nothing(run: Run, place: Path) -> None:
    addresses.store(once_run(place), addresses.of_url("https://llm.example"))
    assert run("coordinator", "key", "ada")[2] == ""


def test_an_api_key_is_printed_once(run: Run, place: Path) -> None:
    code, out, err = run("coordinator", "key", "ada", "--json")
    assert code == 0 and json.loads(out)["api_key"].startswith("wsk-")
    assert "from now on commands and programs on this machine need a key too" in err and err.count("\n") == 1
    assert run("coordinator", "key", "grace")[2] == ""
    code, out, err = run("coordinator", "key", "ada")
    assert (code, out) == (ExitCode.USAGE, "") and err.count("\n") == 1


def test_what_let_somebody_in_is_taken_back(run: Run, place: Path) -> None:
    for _ in range(2):
        run("coordinator", "key", "ada")
        code, out, err = run("coordinator", "revoke", "key", "ada")
        assert (code, out, err) == (0, "the API key 'ada' is not accepted any more\n", "")
    run("coordinator", "key", "ada")
    assert json.loads(run("coordinator", "revoke", "key", "ada", "--json")[1]) == {"name": "ada"}
    code, out, err = run("coordinator", "revoke", "key", "ada")
    assert (code, out) == (ExitCode.USAGE, "") and "no such API key" in err and err.count("\n") == 1
    tokens = [run("coordinator", "token", "--url", "http://127.0.0.1:9")[1].strip() for _ in range(3)]
    code, out, _ = run("coordinator", "revoke", "token", tokens[0])
    assert code == 0 and "1 join token is" in out
    assert json.loads(run("coordinator", "revoke", "token", "--all", "--json")[1]) == {"tokens": 2}
    for wrong in ((), (tokens[0], "--all"), ("nonsense",)):
        code, out, err = run("coordinator", "revoke", "token", *wrong)
        assert code in (ExitCode.USAGE, ExitCode.REFUSED) and out == "" and err.count("\n") == 1


def test_a_peer_is_forgotten(run: Run, place: Path) -> None:
    from coordinator import statements
    from coordinator.ledger import Applicant
    from coordinator.schema import open_database

    database = open_database(place / "ledger.sqlite3")
    statements.add_join_secret(database, "s", role=Role.NODE, pool="lab", expires=9.0, uses=2, now=0.0)
    for name in "ab":
        who = Applicant(PeerId(name * 32), b"k" * 32, Role.NODE, f"lab-{name}", "o", "s", "s")
        statements.admit(database, who, 0.0)
    database.close()
    code, out, _ = run("coordinator", "revoke", "peer", "aaaa")
    assert code == 0 and f"the node {'a' * 32} ('lab-a', pool lab) is enrolled no more" in out
    told = json.loads(run("coordinator", "revoke", "peer", "b" * 32, "--json")[1])
    assert told == {"peer": "b" * 32, "role": "node", "name": "lab-b", "pool": "lab"}
    code, out, err = run("coordinator", "revoke", "peer", "aaaa")
    assert (code, out) == (ExitCode.USAGE, "") and "no node or target 'aaaa' is enrolled" in err
