from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import addresses
from coordinator.admin import (
    ApiKey,
    OpenToken,
    Peer,
    api_keys,
    create_api_key,
    issue_join_token,
    open_join_tokens,
    peers,
    revoke_all_join_tokens,
    revoke_api_key,
    revoke_join_token,
    revoke_peer,
)
from coordinator.ledger import Applicant
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import PeerId, Role

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


# Taken back -----------------------------------------------------------------------------------------------------------


def applicant(name: str, secret: str = "") -> Applicant:
    return Applicant(PeerId(name * 32), name.encode() * 32, Role.NODE, f"node {name}", "o", "s", secret)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_revoked_key_is_refused_at_the_next_request(settings: CoordinatorSettings, whole: bool) -> None:
    ledger = SqliteLedger(settings.ledger_file)
    key, other = create_api_key(settings, "mine"), create_api_key(settings, "other")
    assert await ledger.api_key_name(key) == "mine"
    assert revoke_api_key(settings, key if whole else "mine") == "mine"
    assert await ledger.api_key_name(key) is None
    assert await ledger.api_key_name(other) == "other"
    with pytest.raises(ConfigError, match="no such API key"):
        revoke_api_key(settings, "mine")
    create_api_key(settings, "mine")  # its name is free again
    for name in ("mine", "other"):
        revoke_api_key(settings, name)
    assert await ledger.api_keys_exist(), "or everybody would be let in on loopback"
    with pytest.raises(ConfigError, match="no such API key"):
        revoke_api_key(settings, "")
    await ledger.close()


async def test_a_revoked_peer_is_a_stranger_when_it_comes_again(settings: CoordinatorSettings) -> None:
    ledger = SqliteLedger(settings.ledger_file)
    await ledger.add_join_secret("s3cret", role=Role.NODE, pool="lab", expires=100.0, uses=9, now=0.0)
    for name in ("a", "b"):
        await ledger.admit(applicant(name, "s3cret"), now=0.0)
    assert revoke_peer(settings, "aaaa") == Peer(PeerId("a" * 32), Role.NODE, "node a", "o", "s", "lab", 0.0)
    with pytest.raises(RemoteProtocolError) as refusal:
        await ledger.admit(applicant("a"), now=0.0)
    assert refusal.value.code is CloseCode.NOT_ENROLLED
    assert (await ledger.admit(applicant("b"), now=0.0)).pool == "lab"
    await ledger.close()


async def test_a_peer_is_revoked_by_an_id_that_is_one_peers(settings: CoordinatorSettings) -> None:
    ledger = SqliteLedger(settings.ledger_file)
    await ledger.add_join_secret("s3cret", role=Role.NODE, pool="lab", expires=100.0, uses=9, now=0.0)
    for peer in ("ab", "ac"):
        known = replace(applicant("a", "s3cret"), peer=PeerId(peer.ljust(32, "x")))
        await ledger.admit(known, now=0.0)
    await ledger.close()
    with pytest.raises(ConfigError, match="'a' may be several of those enrolled: give more"):
        revoke_peer(settings, "a")
    for nobody in ("", "%", "b"):
        with pytest.raises(ConfigError, match="is enrolled: give an id"):
            revoke_peer(settings, nobody)
    assert revoke_peer(settings, "ab").peer == "ab".ljust(32, "x")


async def test_a_peer_is_revoked_by_a_name_that_is_one_peers(settings: CoordinatorSettings) -> None:
    ledger = SqliteLedger(settings.ledger_file)
    await ledger.add_join_secret("s3cret", role=Role.NODE, pool="lab", expires=100.0, uses=9, now=0.0)
    names = {"a": "twin", "b": "twin", "c": "alone", "d": "a" * 32, "e": "c"}
    for letter, name in names.items():
        await ledger.admit(replace(applicant(letter, "s3cret"), name=name), now=0.0)
    await ledger.close()
    for several in ("twin", "c"):  # the last is one peer's name, and the beginning of another's id
        with pytest.raises(ConfigError, match=f"'{several}' may be several"):
            revoke_peer(settings, several)
    assert revoke_peer(settings, "alone").peer == "c" * 32
    assert revoke_peer(settings, "a" * 32).name == "twin", "nobody hides behind a name that is another's id"
    assert revoke_peer(settings, "twin").peer == "b" * 32


async def test_who_is_enrolled_and_what_would_let_somebody_in_is_listed(settings: CoordinatorSettings) -> None:
    for empty in (peers, api_keys, open_join_tokens):
        with pytest.raises(ConfigError, match="there is no ledger"):
            empty(settings)
    clock = ManualClock(1000.0)
    ledger = SqliteLedger(settings.ledger_file)  # as a coordinator that runs
    assert (peers(settings), api_keys(settings), open_join_tokens(settings)) == ([], [], [])
    twice = issue_join_token(settings, role=Role.NODE, pool="lab", url=URL, uses=2, ttl=60, clock=clock)
    issue_join_token(settings, role=Role.TARGET, url=URL, ttl=30, clock=clock)
    issue_join_token(settings, role=Role.NODE, url=URL, ttl=1, clock=ManualClock(0.0))
    for name in ("b", "a"):
        create_api_key(settings, name, clock=clock)
    await ledger.admit(applicant("a", twice.secret), now=1010.0)
    assert peers(settings) == [Peer(PeerId("a" * 32), Role.NODE, "node a", "o", "s", "lab", 1010.0)]
    assert open_join_tokens(settings, clock=clock) == [
        OpenToken(Role.TARGET, "default", 1, 1030.0),
        OpenToken(Role.NODE, "lab", 1, 1060.0),
    ]
    revoke_api_key(settings, "b")
    assert api_keys(settings) == [ApiKey("a", 1000.0)]
    await ledger.close()


async def test_nobody_is_let_in_by_a_revoked_token(settings: CoordinatorSettings) -> None:
    clock = ManualClock(1000.0)
    first, second, third = (
        issue_join_token(settings, role=Role.NODE, url=URL, uses=2, ttl=60, clock=clock) for _ in range(3)
    )
    expired = issue_join_token(settings, role=Role.NODE, url=URL, ttl=1, clock=ManualClock(0.0))
    ledger = SqliteLedger(settings.ledger_file)
    await ledger.admit(applicant("a", first.secret), now=1000.0)
    revoke_join_token(settings, first)
    with pytest.raises(RemoteProtocolError) as refusal:
        await ledger.admit(applicant("b", first.secret), now=1000.0)
    assert refusal.value.code is CloseCode.JOIN_REFUSED
    await ledger.admit(applicant("a"), now=1000.0)  # who came by it stays
    await ledger.admit(applicant("b", second.secret), now=1000.0)
    assert revoke_all_join_tokens(settings, clock=clock) == 2
    for token in (second, third, expired):
        with pytest.raises(RemoteProtocolError, match="join token"):
            await ledger.admit(applicant("c", token.secret), now=1000.0)
    with pytest.raises(ConfigError, match="not one of this coordinator's"):
        revoke_join_token(settings, replace(first, secret="another"))
    await ledger.close()


def test_where_no_coordinator_was_nothing_is_revoked_and_nothing_made(settings: CoordinatorSettings) -> None:
    for revoke in (revoke_api_key, revoke_peer):
        with pytest.raises(ConfigError, match="there is no ledger in"):
            revoke(settings, "x")
    with pytest.raises(ConfigError, match="there is no ledger in"):
        revoke_all_join_tokens(settings)
    assert not settings.ledger_file.exists()
