from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from wanspec_p2p.errors import ConfigError, JoinTokenError
from wanspec_p2p.links import membership
from wanspec_p2p.links.membership import Introduction, Keeper, Membership, coordinator_of
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Role

NOW = 1_800_000_000.0
COORDINATOR = Identity.generate()
HOME = Membership("wss://coordinator.example:443", COORDINATOR.public_key, "c" * 64)


def token(**changes: object) -> str:
    fields: dict[str, object] = {
        "url": HOME.url,
        "coordinator": HOME.coordinator,
        "certificate": HOME.certificate,
        "secret": "s3cret",
        "role": Role.TARGET,
        "pool": "default",
        "expires": int(NOW) + 60,
    }
    return JoinToken(**(fields | changes)).encode()  # type: ignore[arg-type]  # whatever a test gives


def full_disk(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


# The file -------------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_loaded_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "coordinator.json"
    membership.store(path, HOME)
    assert membership.load(path) == HOME
    assert membership.load(path).peer_id == COORDINATOR.peer_id  # type: ignore[union-attr]  # just stored
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"s3cret" not in path.read_bytes()


def test_a_loopback_coordinator_has_no_certificate(tmp_path: Path) -> None:
    home = Membership("ws://127.0.0.1:8080", COORDINATOR.public_key, None)
    membership.store(tmp_path / "coordinator.json", home)
    assert membership.load(tmp_path / "coordinator.json") == home


def test_how_a_peer_was_introduced_is_stored_with_it(tmp_path: Path) -> None:
    home = Membership(HOME.url, HOME.coordinator, HOME.certificate, Introduction(owner="ada", site="north"))
    membership.store(tmp_path / "coordinator.json", home)
    assert membership.load(tmp_path / "coordinator.json") == home


def test_a_file_of_an_earlier_release_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.json"
    key = base64.b64encode(HOME.coordinator).decode()
    path.write_text(json.dumps({"url": HOME.url, "coordinator": key, "certificate": HOME.certificate}))
    assert membership.load(path) == HOME
    assert HOME.said == Introduction()


def test_nothing_stored_is_no_membership(tmp_path: Path) -> None:
    assert membership.load(tmp_path / "coordinator.json") is None


def test_storing_again_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.json"
    membership.store(path, HOME)
    other = Membership("ws://127.0.0.1:1", Identity.generate().public_key, None)
    membership.store(path, other)
    assert membership.load(path) == other
    assert [entry.name for entry in tmp_path.iterdir()] == ["coordinator.json"]


def test_a_crash_while_storing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coordinator.json"
    membership.store(path, HOME)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        membership.store(path, Membership("ws://127.0.0.1:1", COORDINATOR.public_key, None))
    assert membership.load(path) == HOME
    assert [entry.name for entry in tmp_path.iterdir()] == ["coordinator.json"]


def test_a_running_peer_writes_what_has_changed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "coordinator.json"
    keeper = Keeper(path, None)
    keeper.keep(HOME)
    assert membership.load(path) == HOME
    moved = Membership("wss://elsewhere.example:443", COORDINATOR.public_key, "c" * 64)
    with monkeypatch.context() as full, capture_logs() as logs:
        full.setattr(os, "fsync", full_disk)
        keeper.keep(HOME)
        Keeper(path, HOME).keep(HOME)
        assert logs == [], "there was nothing to write"
        keeper.keep(moved)
        assert [line["log_level"] for line in logs] == ["error"]
        assert "No space left on device" in logs[0]["reason"]
        assert membership.load(path) == HOME
    keeper.keep(moved)
    assert membership.load(path) == moved


@pytest.mark.parametrize("known", [None, Membership("ws://127.0.0.1:1", COORDINATOR.public_key, None)])
def test_a_peer_that_has_just_joined_and_cannot_remember_it_says_so(
    known: Membership | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ConfigError, match="No space left on device"):
        Keeper(tmp_path / "coordinator.json", known).keep(HOME)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"nonsense",
        b'{"url": "x", "coordinator": "AA==", "certificate": null}',
        b'{"url": "x", "coordinator": "%s=", "certificate": null, "said": {"owner": ""}}' % (b"A" * 43),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "coordinator.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged .* join again") as error:
        membership.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "coordinator.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        membership.load(tmp_path / "coordinator.json")


# Which coordinator ----------------------------------------------------------------------------------------------------


def test_without_a_token_the_remembered_coordinator_is_dialled_with_no_secret() -> None:
    assert coordinator_of(None, HOME, role=Role.TARGET, now=NOW) == (HOME, "")


@pytest.mark.parametrize("role", [Role.NODE, Role.TARGET])
def test_with_neither_the_command_to_run_is_named(role: Role) -> None:
    with pytest.raises(ConfigError, match=f"wanspec {role.value} join TOKEN"):
        coordinator_of(None, None, role=role, now=NOW)


def test_a_token_names_the_coordinator_and_the_secret_to_show() -> None:
    assert coordinator_of(token(), None, role=Role.TARGET, now=NOW) == (HOME, "s3cret")


def test_a_token_of_another_coordinator_moves_us_there() -> None:
    other = Identity.generate()
    home, secret = coordinator_of(token(coordinator=other.public_key), HOME, role=Role.TARGET, now=NOW)
    assert (home.peer_id, secret) == (other.peer_id, "s3cret")


def test_what_is_said_with_a_token_is_remembered_over_what_was_said_before() -> None:
    known = Membership(HOME.url, HOME.coordinator, HOME.certificate, Introduction("atlas", "ada", "north"))
    for coordinator in (HOME.coordinator, Identity.generate().public_key):
        join = token(coordinator=coordinator)
        home, _ = coordinator_of(join, known, said=Introduction(site="south"), role=Role.TARGET, now=NOW)
        assert home.said == Introduction("atlas", "ada", "south")
    home, _ = coordinator_of(token(), None, said=Introduction(owner="ada"), role=Role.TARGET, now=NOW)
    assert home.said == Introduction(owner="ada")


def test_what_is_said_without_a_token_is_not_remembered() -> None:
    known = Membership(HOME.url, HOME.coordinator, HOME.certificate, Introduction(owner="ada"))
    home, _ = coordinator_of(None, known, said=Introduction(owner="grace"), role=Role.TARGET, now=NOW)
    assert home == known
    assert Introduction(owner="grace").after(home.said) == Introduction(owner="grace")


def test_an_expired_token_is_refused_where_it_is_needed() -> None:
    expired = token(expires=int(NOW))
    with pytest.raises(JoinTokenError, match="has expired"):
        coordinator_of(expired, None, role=Role.TARGET, now=NOW)
    elsewhere = Membership(HOME.url, Identity.generate().public_key, None)
    with pytest.raises(JoinTokenError, match="has expired"):
        coordinator_of(expired, elsewhere, role=Role.TARGET, now=NOW)


def test_an_expired_token_of_the_coordinator_that_knows_us_still_tells_its_address() -> None:
    moved = token(url="wss://new.example:443", expires=int(NOW) - 1)
    home, secret = coordinator_of(moved, HOME, role=Role.TARGET, now=NOW)
    assert (home.url, secret) == ("wss://new.example:443", "s3cret")


def test_a_token_for_another_role_is_refused_with_the_right_one_named() -> None:
    with pytest.raises(JoinTokenError, match="admits a target, not a node: ask for one with `--role node`"):
        coordinator_of(token(), None, role=Role.NODE, now=NOW)


def test_what_is_no_token_is_refused() -> None:
    with pytest.raises(JoinTokenError):
        coordinator_of("wanspec-join-1.nonsense", None, role=Role.TARGET, now=NOW)
