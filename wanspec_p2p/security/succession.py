"""How a coordinator changes its key: the old key signs the new one, and who pinned the old one follows.

A chain of such statements leads from any of the last keys to the present one. It needs no secrecy and no trust in who
hands it over; it can be replayed by anybody, and leads nobody back: a peer follows it from the key it pinned, and what
was pinned before is in no statement that begins there. What it cannot do: docs/decisions/0019-keys-are-handed-on.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.security.identity import Identity, peer_id, verify
from wanspec_p2p.types import PeerId

__all__ = ["MAX_SUCCESSIONS", "Succession", "follow", "hand_on", "leading_to"]

MAX_SUCCESSIONS = 8
"""Statements in a chain. A peer that slept through more changes has to join again."""
_SIGNS = b"wanspec key succession\0"  # no signature under this word means anything else

_Key: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Succession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statement: whoever knew `old` as a coordinator's Ed25519 key knows `new` as its key from now on."""

    old: _Key
    new: _Key
    issued: Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # seconds since the Unix epoch; for people, decides nothing
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]  # by `old`, over the other three

    @property
    def signed(self) -> bytes:
        return _SIGNS + self.old + self.new + self.issued.to_bytes(8, "big")


def hand_on(old: Identity, new: Identity, *, issued: int) -> Succession:
    """The statement in which `old` names `new`."""
    unsigned = Succession(old.public_key, new.public_key, issued, bytes(64))
    return msgspec.structs.replace(unsigned, signature=old.sign(unsigned.signed))


def follow(chain: Sequence[Succession], pinned: PeerId) -> bytes:
    """The public key that a chain leads to from the one that is pinned.

    Raises:
        RemoteProtocolError: HANDSHAKE_FAILED; it does not begin with the pinned key, is too long, is broken, comes back
            to a key it has left, or one of its signatures is not the old key's.
    """
    if len(chain) > MAX_SUCCESSIONS:
        raise _failed(f"it has more than {MAX_SUCCESSIONS} statements")
    begins = next((at for at, each in enumerate(chain) if peer_id(each.old) == pinned), None)
    if begins is None:
        raise _failed("it does not begin with the key we were given")
    followed = chain[begins:]
    keys = [followed[0].old, *(each.new for each in followed)]
    if [each.old for each in followed] != keys[:-1]:
        raise _failed("a statement is missing from it")
    if len(set(keys)) != len(keys):
        raise _failed("it comes back to a key that was given up")
    for each in followed:
        verify(each.old, each.signature, each.signed)
    return keys[-1]


def leading_to(chain: Sequence[Succession], key: bytes) -> tuple[Succession, ...]:
    """The part of a chain that leads to `key`; nothing where none does.

    A change of key that was broken off leaves a statement for a key that never came into use.
    """
    end = next((at for at, each in enumerate(chain, 1) if each.new == key), 0)
    return tuple(chain[:end])


def _failed(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the statement of the coordinator's new key is not valid: {reason}", _CODE)


_CODE = CloseCode.HANDSHAKE_FAILED
