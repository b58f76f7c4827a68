from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator import addresses
from coordinator.admin import create_api_key, issue_join_token
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Role

URL = "ws://127.0.0.1:9000"


def test_a_token_says_where_who_and_what(settings: CoordinatorSettings) -> None:
    clock = ManualClock(1000.0)
    token = issue_join_token(settings, role=Role.NODE, pool="lab", ttl=60, url=URL, clock=clock)
    assert JoinToken.decode(token.encode()) == token
    assert (token.url, token.role, token.pool, token.expires) == (URL, Role.NODE, "lab", 1060)
    assert token.coordinator == Identity.load_or_create(settings.identity_file).public_key
    assert token.certificate is None


async def test_keys_and_tokens_are_made_while_a_ledger_is_open(settings: CoordinatorSettings) -> None:
    ledger = SqliteLedger(settings.ledger_file)
    key = create_api_key(settings, "mine")
    assert key.startswith("wsk-")
    assert await ledger.api_key_name(key) == "mine"
    with pytest.raises(ConfigError, match="choose another name"):
        create_api_key(settings, "mine")
    await ledger.close()


def test_the_address_is_the_given_one_or_the_public_one_or_the_last_one(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path / "a")
    with pytest.raises(ConfigError, match="has never run here"):
        issue_join_token(settings, role=Role.NODE)
    issue_join_token(settings, role=Role.NODE, url=URL)
    addresses.store(settings, addresses.of_url("http://127.0.0.1:1234"))
    assert issue_join_token(settings, role=Role.NODE).url == "ws://127.0.0.1:1234"
    addresses.store(settings, addresses.of_url("https://0.0.0.0:1234"))
    with pytest.raises(ConfigError, match="every address"):
        issue_join_token(settings, role=Role.NODE)
    public = CoordinatorSettings(data_dir=tmp_path / "b", host="0.0.0.0", public_url="https://llm.example:8443/")
    token = issue_join_token(public, role=Role.TARGET)
    assert token.url == "wss://llm.example:8443"
    assert token.certificate == addresses.fingerprint_shown(public, ManualClock())


@pytest.mark.parametrize(
    "options",
    [
        {"role": Role.COORDINATOR},
        {"pool": ""},
        {"ttl": 0},
        {"ttl": float("nan")},
        {"uses": 0},
        {"url": "ftp://x"},
        {"url": "nonsense"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_line(settings: CoordinatorSettings, options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"role": Role.NODE, "url": URL} | options
    with pytest.raises(ConfigError) as error:
        issue_join_token(settings, **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="name has between"):
        create_api_key(settings, "")
