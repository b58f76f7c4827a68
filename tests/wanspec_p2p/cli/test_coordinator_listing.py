from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coordinator.ledger import Applicant
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from tests.support.past_coordinators import once_run
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.types import PeerId, Role

PEER = "p" * 32


@pytest.fixture
async def ledger(home: Path) -> None:
    """Of a coordinator that a node has joined, whose name would colour a terminal."""
    settings = CoordinatorSettings(data_dir=home / ".local/share/wanspec/coordinator")
    ledger = SqliteLedger(settings.ledger_file)
    await ledger.add_join_secret("s3cret", role=Role.NODE, pool="lab", expires=2e9, uses=3, now=0.0)
    node = Applicant(PeerId(PEER), b"k" * 32, Role.NODE, "[red]\x1b[2Jlaptop", "ada", "north", "s3cret")
    await ledger.admit(node, now=1_800_000_000.0)
    await ledger.add_api_key("alice", "wsk-hidden", now=1_700_000_000.0)
    await ledger.close()


def test_peers(run: Run, ledger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("coordinator", "list", "peers")
    assert (code, err) == (0, "") and "\x1b" not in out
    assert re.search(rf"{PEER}  node  \[red\].\[2Jlaptop  ada +north  lab +2027-01-15 08:00 UTC", out)
    monkeypatch.setenv("COLUMNS", "60")
    assert run("coordinator", "list", "peers")[1] == out, "into a pipe each is a line"
    (peer,) = json.loads(run("coordinator", "list", "peers", "--json")[1])
    assert peer == {
        **{"peer": PEER, "role": "node", "name": "[red]\x1b[2Jlaptop", "owner": "ada", "site": "north"},
        **{"pool": "lab", "enrolled": 1_800_000_000.0},
    }


def test_keys_and_tokens_without_their_secrets(run: Run, ledger: None) -> None:
    assert re.search(r"alice  2023-11-14 22:13 UTC", run("coordinator", "list", "keys")[1])
    assert json.loads(run("coordinator", "list", "keys", "--json")[1]) == [
        {"name": "alice", "created": 1_700_000_000.0}
    ]
    assert re.search(r"node  lab   2 +2033-05-18 03:33 UTC", run("coordinator", "list", "tokens")[1])
    (token,) = json.loads(run("coordinator", "list", "tokens", "--json")[1])
    assert token == {"role": "node", "pool": "lab", "uses_left": 2, "expires": 2e9}


def test_where_there_is_nothing_it_says_so(run: Run, home: Path) -> None:
    code, out, err = run("coordinator", "list", "peers")
    assert (code, out) == (ExitCode.USAGE, "") and "no coordinator has run in" in err
    place = once_run(home / "elsewhere").data_dir
    assert run("coordinator", "list", "peers", "--data-dir", str(place)) == (0, "nobody is enrolled\n", "")
    assert run("coordinator", "list", "tokens", "--data-dir", str(place)) == (0, "no join token is open\n", "")
    assert run("coordinator", "list", "keys", "--data-dir", str(place)) == (0, "there is no API key\n", "")
