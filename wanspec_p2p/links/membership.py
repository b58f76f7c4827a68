"""What a peer remembers of joining: where the coordinator is, the keys it must show, and what the operator said of
the peer itself. Never a secret.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from wanspec_p2p.errors import CloseCode, ConfigError, JoinTokenError, PeerRefused
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Name
from wanspec_p2p.security.files import write_whole
from wanspec_p2p.security.identity import peer_id
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import PeerId, Role

__all__ = ["UNKNOWN", "Introduction", "Keeper", "Membership", "coordinator_of", "load", "store", "used_once"]

UNKNOWN = "unknown"
"""The owner and the site of a peer whose operator never named them."""

log = structlog.get_logger(__name__)


class Introduction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an operator says of a peer; None where nothing is said."""

    name: Name | None = None
    owner: Name | None = None
    site: Name | None = None

    def after(self, earlier: Introduction) -> Introduction:
        """What holds when this is said after `earlier`: of each field, the last that was said."""
        return Introduction(
            name=self.name or earlier.name, owner=self.owner or earlier.owner, site=self.site or earlier.site
        )


_NOTHING = Introduction()


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The coordinator a peer belongs to, and how the peer was introduced; the content of `coordinator.json`."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_URL)]
    coordinator: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # its Ed25519 public key
    certificate: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None  # SHA-256 (DER); None on loopback
    said: Introduction = _NOTHING  # when it joined; files of earlier releases lack it

    @property
    def peer_id(self) -> PeerId:
        return peer_id(self.coordinator)


def load(path: Path) -> Membership | None:
    """The stored membership; None where there is none.

    Raises:
        ConfigError: the file is there and is not a membership.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it and join again with a new token") from error


def store(path: Path, membership: Membership) -> None:
    """Write it so that a crash leaves the old file or the new one, readable by its owner alone.

    Raises:
        ConfigError: the directory cannot be written.
    """
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(membership), indent=2), private=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


class Keeper:
    """Keeps a membership on disk while a peer runs.

    Args:
        known: what is on disk when it starts.
    """

    def __init__(self, path: Path, known: Membership | None) -> None:
        self._path, self._stored = path, known
        self._running = False

    def keep(self, membership: Membership) -> None:
        """Write it where it has changed. Once a peer runs, a disk that takes nothing does not end it; with the next
        call it is tried again.

        Raises:
            ConfigError: the first time, as `store`.
        """
        try:
            if membership != self._stored:
                store(self._path, membership)
                self._stored = membership
        except ConfigError as error:
            if not self._running:
                raise
            log.error("where the coordinator is now cannot be remembered", reason=str(error))
        self._running = True


def coordinator_of(
    join: str | None, known: Membership | None, *, said: Introduction = _NOTHING, role: Role, now: float
) -> tuple[Membership, str]:
    """The coordinator to dial and the secret to show, from the token given (if any) and what is remembered.

    A token of the coordinator that already knows us refreshes its address; its secret is kept in case we were removed.

    Args:
        said: how the operator introduces us now. With a token it is remembered, over what was said when we joined
            before; without one it holds for this run alone.
        role: what we are; a token for another role is refused.
        now: seconds since the Unix epoch.

    Raises:
        JoinTokenError: the token is malformed, for another role, or expired while it is needed.
        ConfigError: neither a token nor a remembered coordinator.
    """
    if join is None:
        if known is None:
            raise ConfigError(
                f"this {role.value} belongs to no coordinator yet: ask its operator for a token and run "
                f"`wanspec {role.value} join TOKEN`"
            )
        return known, ""
    token = JoinToken.decode(join)
    if token.role is not role:
        raise JoinTokenError(
            f"this join token admits a {token.role.value}, not a {role.value}: ask for one with `--role {role.value}`"
        )
    again = known is not None and known.coordinator == token.coordinator
    if token.expires <= now and not again:
        raise JoinTokenError("this join token has expired: ask the coordinator's operator for a new one")
    if known is not None:
        said = said.after(known.said)
    return Membership(token.url, token.coordinator, token.certificate, said), token.secret


@contextlib.contextmanager
def used_once(data_dir: Path, role: Role) -> Iterator[None]:
    """Say what to do where the coordinator lets us go because somebody else has come with our key.

    Raises:
        PeerRefused: as the body; the reason of REPLACED is ours.
    """
    try:
        yield
    except PeerRefused as error:
        if error.code != CloseCode.REPLACED:
            raise
        reason = (
            f"another {role.value} with the key in {data_dir} has connected, from another machine or directory, and "
            "takes the place of this one: give one of them a --data-dir and a join token of its own"
        )
        raise PeerRefused(error.code, reason) from error
