"""What must outlive the process: who is enrolled, with what secrets, and what every node has contributed.

A method that returns has written to disk; what it wrote survives `kill -9`. Threads live behind this interface alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordinator.acceptance import Acceptance, ModelPair
from coordinator.events import LeaseInForce
from coordinator.instructions import LeaseTerms
from coordinator.records import Tally
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId, Role

__all__ = ["MAX_PAIRS", "Applicant", "Enrolment", "Ledger", "LedgerError"]

MAX_PAIRS = 100
"""Pairs of models anybody is shown at once: their names come from peers, who could make up any number."""


class LedgerError(WanspecError):
    """The disk would not take it: full, gone, or damaged. Nothing of the call was written."""


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who wants in. The key is proved before; `secret` is empty where it counts on being known."""

    peer: PeerId
    public_key: bytes
    role: Role
    name: str
    owner: str
    site: str
    secret: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    peer: PeerId
    role: Role
    pool: str


class Ledger(Protocol):
    async def admit(self, applicant: Applicant, *, now: float) -> Enrolment:
        """The enrolment of a known key, or a new one for a secret, which is used up in the same transaction.

        Args:
            now: seconds since the Unix epoch.

        Raises:
            RemoteProtocolError: NOT_ENROLLED for an unknown key without a secret, JOIN_REFUSED for a secret that is
                wrong, expired, used up or for another role.
        """
        ...

    async def disenrolled(self, peers: Collection[PeerId]) -> frozenset[PeerId]:
        """Those of them that are not enrolled, or no longer."""
        ...

    async def add_join_secret(
        self, secret: str, *, role: Role, pool: str, expires: float, uses: int, now: float
    ) -> None: ...

    async def add_api_key(self, name: str, key: str, *, now: float) -> None:
        """Raises ConfigError where a key of this name exists."""
        ...

    async def api_keys_exist(self) -> bool: ...

    async def api_key_name(self, key: str) -> str | None:
        """The name the key was made under; None for a key that was never made."""
        ...

    async def record_lease(self, terms: LeaseTerms, *, now: float, seconds: float) -> None:
        """When it is given for so many seconds, and again whenever it is renewed: one that nobody uses may be forgotten
        days later."""
        ...

    async def leases_in_force(self, *, now: float) -> Sequence[LeaseInForce]:
        """Those that have not ended, one for each node and target. Some were let go of since; their nodes know."""
        ...

    async def store_receipts(
        self, target: PeerId, receipts: Sequence[Receipt], *, now: float
    ) -> Sequence[tuple[Receipt, ModelPair | None]]:
        """Those that were new, each with the models of its lease; a receipt whose id is known is left as it was.

        What a receipt says counts for good; the receipt itself may be let go of, and its id forgotten, days later.

        A new one counts, for acceptance in the same transaction, if its lease is one that was recorded for this node
        and this target, and is not forgotten. One that does not count is not kept, and new whenever it comes; its
        models are None.
        """
        ...

    async def acceptance(self, *, now: float) -> Sequence[Acceptance]:
        """Of the pairs of models with the most positions, these first; at most `MAX_PAIRS`."""
        ...

    async def tallies(self) -> Mapping[PeerId, Tally]:
        """Sums over each node's receipts that count."""
        ...

    async def check_writable(self) -> None:
        """Raises LedgerError where nothing could be written now."""
        ...

    async def close(self) -> None:
        """Finish what was asked, then let go of the file. Safe to call again."""
        ...
