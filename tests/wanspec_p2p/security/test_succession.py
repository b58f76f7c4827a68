from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.security import succession
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.succession import MAX_SUCCESSIONS, Succession, follow, hand_on, leading_to

NOW = 1_800_000_000
KEYS = [Identity.generate() for _ in range(MAX_SUCCESSIONS + 2)]
THIEF = Identity.generate()
CHAIN = tuple(hand_on(old, new, issued=NOW) for old, new in zip(KEYS[:4], KEYS[1:5], strict=True))


def refused(match: str) -> Any:
    return pytest.raises(RemoteProtocolError, match=match, check=lambda error: error.code is CloseCode.HANDSHAKE_FAILED)


@pytest.mark.parametrize("knows", range(4))
def test_from_every_earlier_key_the_chain_leads_to_the_last(knows: int) -> None:
    assert follow(CHAIN, KEYS[knows].peer_id) == KEYS[4].public_key


def test_it_travels_as_json() -> None:
    wire = msgspec.json.encode(CHAIN)
    assert msgspec.json.decode(wire, type=tuple[Succession, ...]) == CHAIN
    assert len(wire) < 300 * len(CHAIN)


def test_nobody_is_led_who_pinned_no_key_of_it() -> None:
    for pinned in (THIEF.peer_id, KEYS[4].peer_id):  # the last key too: there is nothing to follow from it
        with refused("does not begin with the key we were given"):
            follow(CHAIN, pinned)
    with refused("does not begin"):
        follow((), KEYS[0].peer_id)


# Forgery --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        msgspec.structs.replace(CHAIN[0], new=THIEF.public_key),  # a statement turned to another key
        msgspec.structs.replace(CHAIN[0], issued=NOW + 1),
        msgspec.structs.replace(CHAIN[0], signature=bytes(64)),
        msgspec.structs.replace(CHAIN[0], signature=CHAIN[1].signature),
        msgspec.structs.replace(hand_on(THIEF, THIEF, issued=NOW), old=KEYS[0].public_key),  # signed by another
        msgspec.structs.replace(  # by the key that would gain
            CHAIN[0], new=THIEF.public_key, signature=THIEF.sign(CHAIN[0].signed)
        ),
    ],
)
def test_a_statement_the_old_key_did_not_sign_is_refused(forged: Succession) -> None:
    with refused("the signature is not valid"):
        follow((forged,), KEYS[0].peer_id)


def test_a_signature_made_for_something_else_is_none() -> None:
    statement = CHAIN[0]
    bare = statement.signed.removeprefix(b"wanspec key succession\0")
    for message in (bare, b"wanspec handshake: listener signs\0" + bare):
        with refused("the signature is not valid"):
            follow((msgspec.structs.replace(statement, signature=KEYS[0].sign(message)),), KEYS[0].peer_id)


@pytest.mark.parametrize("bit", range(0, 8 * 64, 37))
def test_every_bit_of_the_signature_counts(bit: int) -> None:
    signature = bytearray(CHAIN[0].signature)
    signature[bit // 8] ^= 1 << bit % 8
    with refused("the signature is not valid"):
        follow((msgspec.structs.replace(CHAIN[0], signature=bytes(signature)),), KEYS[0].peer_id)


def test_a_forged_end_spoils_the_whole_chain() -> None:
    forged = msgspec.structs.replace(CHAIN[3], new=THIEF.public_key)
    with refused("the signature is not valid"):
        follow((*CHAIN[:3], forged), KEYS[0].peer_id)


# Replay and rearrangement ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda chain: chain[:1] + chain[2:], "a statement is missing"),
        (lambda chain: chain[:1] + chain[:1] + chain[1:], "a statement is missing"),
        (lambda chain: (chain[0], chain[2], chain[1], chain[3]), "a statement is missing"),
        (lambda chain: (*chain, hand_on(KEYS[4], KEYS[1], issued=NOW)), "comes back to a key that was given up"),
        (lambda chain: (hand_on(KEYS[0], KEYS[0], issued=NOW),), "comes back to a key that was given up"),
    ],
)
def test_a_chain_that_was_rearranged_is_refused(
    change: Callable[[tuple[Succession, ...]], tuple[Succession, ...]], match: str
) -> None:
    with refused(match):
        follow(change(CHAIN), KEYS[0].peer_id)


def test_an_old_statement_leads_nobody_back() -> None:
    for length in range(1, 4):  # what was said before, to a peer that has followed all of it
        with refused("does not begin"):
            follow(CHAIN[:length], KEYS[4].peer_id)


def test_what_a_peer_has_left_behind_may_be_anything() -> None:
    forged = msgspec.structs.replace(CHAIN[0], signature=bytes(64))
    assert follow((forged, *CHAIN[1:]), KEYS[1].peer_id) == KEYS[4].public_key


def test_a_chain_is_bounded() -> None:
    longest = tuple(hand_on(old, new, issued=NOW) for old, new in zip(KEYS[:-2], KEYS[1:-1], strict=True))
    assert len(longest) == MAX_SUCCESSIONS == limits.MAX_SUCCESSIONS
    assert follow(longest, KEYS[0].peer_id) == KEYS[-2].public_key
    with refused("more than 8 statements"):
        follow((*longest, hand_on(KEYS[-2], KEYS[-1], issued=NOW)), KEYS[-2].peer_id)


def test_no_more_signatures_are_checked_than_a_chain_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(succession, "verify", lambda key, signature, message: checked.append(key))
    with refused("more than 8"):
        follow(CHAIN * 1000, KEYS[0].peer_id)
    assert checked == []


# What a coordinator keeps ---------------------------------------------------------------------------------------------


def test_of_a_chain_only_what_leads_to_the_key_in_use_counts() -> None:
    assert leading_to(CHAIN, KEYS[4].public_key) == CHAIN
    assert leading_to(CHAIN, KEYS[3].public_key) == CHAIN[:3]  # the change after it was broken off
    assert leading_to(CHAIN, KEYS[0].public_key) == ()
    assert leading_to(CHAIN, THIEF.public_key) == ()
