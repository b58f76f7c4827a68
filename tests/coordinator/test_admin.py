from __future__ import annotations

from collections.abc import Callable
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
    keys_are_needed,
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
from tests.support.certificates import self_made
from tests.support.past_coordinators import once_run
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import PeerId, Role

URL = "ws://127.0.0.1:9000"


def test_a_token_says_where_who_and_what(settings: CoordinatorSettings) -> None:
    clock = ManualClock(1000.0)
    once_run(settings.data_dir)
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
    settings = once_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"address is unknown: start it, or give its --url, or another --data-dir"):
        issue_join_token(settings, role=Role.NODE)
    issue_join_token(settings, role=Role.NODE, url=URL)
    addresses.store(settings, addresses.of_url("http://127.0.0.1:1234"))
    assert issue_join_token(settings, role=Role.NODE).url == "ws://127.0.0.1:1234"
    addresses.store(settings, addresses.of_url("https://0.0.0.0:1234"))
    with pytest.raises(ConfigError, match="every address .* give the --url"):
        issue_join_token(settings, role=Role.NODE)
    public = CoordinatorSettings(data_dir=tmp_path / "b", host="0.0.0.0", public_url="https://llm.example:8443/")
    token = issue_join_token(public, role=Role.TARGET)
    assert token.url == "wss://llm.example:8443"
    assert token.certificate == addresses.fingerprint_shown(public, ManualClock())


@pytest.mark.parametrize("url", ["ws://llm.example", "http://192.0.2.1:80"])
def test_a_token_for_a_link_without_tls_off_loopback_is_refused(settings: CoordinatorSettings, url: str) -> None:
    once_run(settings.data_dir)
    with pytest.raises(
        ConfigError, match="neither loopback nor encrypted, so no peer dials it: give an https:// --url"
    ):
        issue_join_token(settings, role=Role.NODE, url=url)
    assert open_join_tokens(settings) == []


def test_a_token_for_a_certificate_that_nobody_knows_is_refused(settings: CoordinatorSettings, tmp_path: Path) -> None:
    """Links pin it, and ask no authority."""
    once_run(settings.data_dir)
    addresses.store(
        settings, addresses.of_url("http://127.0.0.1:1234")
    )  # a proxy is in front, which it was not told of
    with pytest.raises(
        ConfigError, match=r"no certificate is known .* --public-url https://llm\.example, .*--proxy-cert"
    ):
        issue_join_token(settings, role=Role.NODE, url="https://llm.example")
    certificate, _, fingerprint = self_made(tmp_path)
    told = replace(settings, public_url="https://llm.example", proxy_cert=certificate)
    assert issue_join_token(told, role=Role.NODE).certificate == fingerprint


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
    once_run(settings.data_dir)
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
        with pytest.raises(ConfigError, match="no coordinator has run in"):
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
    once_run(settings.data_dir)
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


# Where nobody was -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda settings: issue_join_token(settings, role=Role.NODE, url=URL),
        lambda settings: create_api_key(settings, "x"),
        keys_are_needed,
        lambda settings: revoke_api_key(settings, "x"),
        lambda settings: revoke_peer(settings, "x"),
        revoke_all_join_tokens,
    ],
)
def test_where_no_coordinator_was_nothing_is_given_or_taken_and_nothing_made(
    settings: CoordinatorSettings, ask: Callable[[CoordinatorSettings], object]
) -> None:
    with pytest.raises(ConfigError, match=f"no coordinator has run in {settings.data_dir}: name its --data-dir"):
        ask(settings)
    assert not settings.data_dir.exists()


# Whether keys are needed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "needed"), [(None, False), ("http://127.0.0.1:1", False), ("https://llm.example", True)], ids=str
)
def test_the_first_key_changes_something_where_the_coordinator_is_on_loopback(
    settings: CoordinatorSettings, url: str | None, needed: bool
) -> None:
    """As it was run, whatever flags it was given then."""
    once_run(settings.data_dir)
    if url is not None:
        addresses.store(settings, addresses.of_url(url))
    assert keys_are_needed(settings) is needed
    create_api_key(settings, "mine")
    assert keys_are_needed(settings)
