from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from wanspec_p2p.errors import CloseCode, ConfigError, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links.home import Home, check_urls
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.security.identity import Identity

COORDINATOR, STRANGER = Identity.generate(), Identity.generate()
FIRST = Membership("wss://first", COORDINATOR.public_key, "c" * 64)
Outcome = Exception | Identity
IMPOSTOR = RemoteProtocolError("another peer than expected answers", CloseCode.HANDSHAKE_FAILED)


class Network:
    """Who answers where; `asked` are the addresses in the order they were tried."""

    def __init__(self, **places: Outcome) -> None:
        self.places = {f"wss://{name}": outcome for name, outcome in places.items()}
        self.asked: list[str] = []
        self.certificate = FIRST.certificate

    async def dial(self, membership: Membership) -> Any:
        self.asked.append(membership.url)
        assert (membership.certificate, membership.said) == (FIRST.certificate, FIRST.said)
        outcome = self.places[membership.url]
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(public_key=outcome.public_key, certificate=self.certificate)


async def test_the_address_it_was_reached_at_last_comes_first() -> None:
    network = Network(first=COORDINATOR, second=COORDINATOR)
    home = Home(FIRST, ("wss://second",))
    await home.reach(network.dial)
    assert (network.asked, home.membership) == (["wss://first"], FIRST)


async def test_an_address_that_anybody_named_serves_once_and_takes_no_others_place() -> None:
    """Whoever relays from there may leave."""
    network = Network(first=COORDINATOR, relay=STRANGER)
    home = Home(FIRST)
    await home.reach_at("wss://relay", network.dial)
    assert (home.url, home.membership.url) == ("wss://relay", "wss://first")
    assert home.membership.coordinator == STRANGER.public_key, "its key was proved there as anywhere"
    await home.reach(network.dial)
    assert (home.url, network.asked) == ("wss://first", ["wss://relay", "wss://first"])


async def test_an_address_that_anybody_named_changes_nothing_where_it_fails() -> None:
    home = Home(FIRST)
    with pytest.raises(RemoteProtocolError):
        await home.reach_at("wss://relay", Network(relay=IMPOSTOR).dial)
    assert (home.url, home.membership) == (FIRST.url, FIRST)


async def test_the_address_it_was_joined_at_is_tried_also_when_another_was_the_last() -> None:
    network = Network(first=Unreachable("nobody"), second=COORDINATOR)
    home = Home(FIRST, ("wss://second",))
    await home.reach(network.dial)
    network.places |= {"wss://first": COORDINATOR, "wss://second": Unreachable("nobody")}
    await home.reach(network.dial)
    assert network.asked == ["wss://first", "wss://second", "wss://second", "wss://first"]


@pytest.mark.parametrize("failure", [Unreachable("nobody"), LinkClosed("broke"), IMPOSTOR])
async def test_the_others_are_tried_in_turn_and_the_one_that_answers_is_remembered(failure: Exception) -> None:
    network = Network(first=failure, second=failure, third=COORDINATOR)
    home = Home(FIRST, ("wss://second", "wss://first", "wss://third"))
    await home.reach(network.dial)
    assert network.asked == ["wss://first", "wss://second", "wss://third"]
    await home.reach(network.dial)
    assert network.asked[3:] == ["wss://third"]


@pytest.mark.parametrize(
    ("outcomes", "raised"),
    [
        ({"first": Unreachable("a"), "second": Unreachable("b")}, "a; b"),
        ({"first": LinkClosed("a"), "second": Unreachable("b")}, "a; b"),
        ({"first": Unreachable("a"), "second": IMPOSTOR}, "a; another peer than expected"),
    ],
)
async def test_a_coordinator_that_may_be_away_is_unreachable_whoever_sits_at_the_others(
    outcomes: dict[str, Outcome], raised: str
) -> None:
    """A stale address in a file must not end a service while the coordinator restarts."""
    home = Home(FIRST, ("wss://second",))
    with pytest.raises(Unreachable, match=raised):
        await home.reach(Network(**outcomes).dial)
    assert home.membership == FIRST


async def test_strangers_everywhere_are_said_to_be_strangers() -> None:
    home = Home(FIRST, ("wss://second",))
    with pytest.raises(RemoteProtocolError, match="another peer than expected"):
        await home.reach(Network(first=IMPOSTOR, second=IMPOSTOR).dial)
    assert home.membership == FIRST


async def test_a_single_address_fails_as_it_did() -> None:
    for failure in (Unreachable("a"), LinkClosed("b"), IMPOSTOR):
        with pytest.raises(type(failure)) as error:
            await Home(FIRST).reach(Network(first=failure).dial)
        assert error.value is failure


STRANGERS_REFUSAL = PeerRefused(CloseCode.VERSION_MISMATCH, "another version")


async def test_a_refusal_that_anybody_can_give_is_not_the_coordinators_word() -> None:
    network = Network(first=STRANGERS_REFUSAL, second=COORDINATOR)
    home = Home(FIRST, ("wss://second",))
    await home.reach(network.dial)
    assert home.url == "wss://second"
    with pytest.raises(Unreachable, match="another version.*; nobody"):
        await Home(FIRST, ("wss://second",)).reach(Network(first=STRANGERS_REFUSAL, second=Unreachable("nobody")).dial)
    for other in (IMPOSTOR, STRANGERS_REFUSAL):
        with pytest.raises(PeerRefused, match="another version"):
            await Home(FIRST, ("wss://second",)).reach(Network(first=other, second=STRANGERS_REFUSAL).dial)


async def test_a_coordinator_that_refuses_us_is_not_asked_again_elsewhere() -> None:
    network = Network(first=PeerRefused(4002, "not enrolled"), second=COORDINATOR)
    with pytest.raises(PeerRefused):
        await Home(FIRST, ("wss://second",)).reach(network.dial)
    assert network.asked == ["wss://first"]


async def test_the_key_a_link_was_proved_with_is_the_one_to_know_from_now_on() -> None:
    """Whether it may be another than before, the handshake has decided."""
    home = Home(FIRST)
    await home.reach(Network(first=STRANGER).dial)
    assert home.membership.coordinator == STRANGER.public_key
    assert home.membership.url == FIRST.url


async def test_the_certificate_a_link_was_opened_with_is_the_one_to_know_from_now_on() -> None:
    """Whether it may be another than before, dialling has decided."""
    home, network = Home(FIRST), Network(first=COORDINATOR)
    network.certificate = "d" * 64
    await home.reach(network.dial)
    assert home.membership == msgspec.structs.replace(FIRST, certificate="d" * 64)


async def test_a_way_without_tls_leaves_the_certificate_that_is_known() -> None:
    home, network = Home(FIRST), Network(first=COORDINATOR)
    network.certificate = None
    await home.reach(network.dial)
    assert home.membership == FIRST


@pytest.mark.parametrize(
    "url",
    [
        "",
        "coordinator.example",
        "https://c",
        "wss://",
        "wss://c:port",
        "ws://c.example",
        "wss://" + "c" * 600,
        "wss://" + "c" * 64,
        "wss://c..example",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a coordinator's address; it looks like wss://name:port"):
        check_urls(["wss://fine:1", url])


def test_addresses_are_encrypted_or_on_this_machine() -> None:
    check_urls(["wss://c.example", "wss://[::1]:8443/behind/a/path", "ws://127.0.0.1:8080", "ws://localhost:1"])


def test_without_a_certificate_to_compare_no_address_with_tls_makes_sense() -> None:
    plain: Callable[..., Home] = lambda *urls: Home(Membership("ws://localhost:1", FIRST.coordinator, None), urls)  # noqa: E731
    plain("ws://localhost:2")
    with pytest.raises(ConfigError, match="joined without TLS"):
        plain("wss://c.example")
