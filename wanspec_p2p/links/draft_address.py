"""What nodes dial: the address of a target. It comes from the target, so it may name nothing but a target's door."""

from __future__ import annotations

from typing import NamedTuple

from wanspec_p2p.links.address import split
from wanspec_p2p.security.tls import is_loopback, may_be_here

__all__ = ["DRAFT_PATH", "DraftAddress", "parse"]

DRAFT_PATH = "/wanspec/draft"
"""Where a target listens for nodes."""


class DraftAddress(NamedTuple):
    host: str
    port: int
    secure: bool

    @property
    def loopback(self) -> bool:
        """It may be on the machine of whoever dials it."""
        return may_be_here(self.host)


def parse(address: str) -> DraftAddress | None:
    """None for what no target has: another path than `DRAFT_PATH` or anything after it, a user, a host that
    cannot be looked up, ws:// off loopback.
    """
    try:
        parts, host = split(address)
        port = parts.port
    except ValueError:
        return None
    if not host or "@" in parts.netloc or parts.path != DRAFT_PATH or not address.endswith(DRAFT_PATH):
        return None
    if parts.scheme == "wss":
        return DraftAddress(host, port or 443, secure=True)
    if parts.scheme == "ws" and is_loopback(host):
        return DraftAddress(host, port or 80, secure=False)
    return None
