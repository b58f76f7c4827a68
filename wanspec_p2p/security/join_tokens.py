"""One string that admits a peer: where the coordinator is, how to know it, and a secret that works once.

Treat it as a password until it is used or has expired.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import JoinTokenError
from wanspec_p2p.security.identity import peer_id
from wanspec_p2p.types import PeerId, Role

__all__ = ["JoinToken"]

_PREFIX = "wanspec-join-"
_VERSION = "1"
_MAX_CHARACTERS = 4096
_ASK = "ask the coordinator's operator for a new one (`wanspec coordinator token`)"


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON inside; short names, because people paste it."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^wss?://[!-~]+\Z")]
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    cert: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")] | None
    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    role: Literal["node", "target"]
    pool: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    exp: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a coordinator's operator hands to the operator of a node or a target."""

    url: str  # ws:// on loopback, wss:// elsewhere
    coordinator: bytes  # its Ed25519 public key, 32 bytes
    certificate: str | None  # SHA-256 of its TLS certificate (DER), hex; None on loopback
    secret: str = field(repr=False)
    role: Role
    pool: str
    expires: int  # seconds since the Unix epoch

    @property
    def peer_id(self) -> PeerId:
        """The coordinator's."""
        return peer_id(self.coordinator)

    def encode(self) -> str:
        wire = {
            "url": self.url,
            "key": self.coordinator,
            "cert": self.certificate,
            "secret": self.secret,
            "role": self.role,
            "pool": self.pool,
            "exp": self.expires,
        }
        body = base64.urlsafe_b64encode(msgspec.json.encode(wire)).decode().rstrip("=")
        return f"{_PREFIX}{_VERSION}.{body}"

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Read a token as it was pasted: white space and line breaks within it do no harm.

        Raises:
            JoinTokenError: one line that says what is wrong and never repeats the secret.
        """
        token = re.sub(r"\s+", "", text)
        head, dot, body = token.partition(".")
        if not head.startswith(_PREFIX):
            raise JoinTokenError(f"this is not a join token (one starts with {_PREFIX}{_VERSION}.): {_ASK}")
        if len(token) > _MAX_CHARACTERS:
            raise JoinTokenError(f"the join token is longer than {_MAX_CHARACTERS} characters: {_ASK}")
        version = head.removeprefix(_PREFIX)
        if dot and version != _VERSION:
            raise JoinTokenError(
                f"the join token has a format this release does not know (it reads version {_VERSION}): "
                "run the coordinator's release of wanspec-p2p here"
            )
        try:
            wire = msgspec.json.decode(_unpad(body), type=_Wire)
        except msgspec.ValidationError as error:
            raise JoinTokenError(f"the join token is damaged: {_ASK}") from error
        except (ValueError, RecursionError) as error:  # base64, UTF-8 or JSON
            raise JoinTokenError("the join token is cut off or damaged: paste the whole line") from error
        return cls(wire.url, wire.key, wire.cert, wire.secret, Role(wire.role), wire.pool, wire.exp)

    def check(self, clock: Clock, role: Role) -> None:
        """Whether this token is any use to a peer of this role at this moment; the coordinator has the last word.

        Raises:
            JoinTokenError: it has expired, or admits another role.
        """
        if self.role is not role:
            raise JoinTokenError(f"the join token admits a {self.role}, not a {role}: {_ASK}")
        if clock.wall() >= self.expires:
            raise JoinTokenError(f"the join token has expired: {_ASK}")


def _unpad(body: str) -> bytes:
    return base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
