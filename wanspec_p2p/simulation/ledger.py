"""A coordinator's ledger without a disk: the same rules and answers, in dictionaries, after a stated time a call."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coordinator.acceptance import RECENT_DAYS, Acceptance, ModelPair, Positions, by_pair, day_of
from coordinator.events import LeaseInForce
from coordinator.instructions import LeaseTerms
from coordinator.ledger import MAX_PAIRS, Applicant, Enrolment
from coordinator.records import Tally
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId, Role

__all__ = ["COMMIT_SECONDS", "MemoryLedger"]

COMMIT_SECONDS = 0.002
"""What a call costs: about one commit of the shipped ledger on a solid-state disk."""


@dataclass(slots=True)
class _Secret:
    role: Role
    pool: str
    expires: float
    uses_left: int


class MemoryLedger:
    """Implements `coordinator.ledger.Ledger`; forgets everything with the process."""

    def __init__(self, commit_seconds: float = COMMIT_SECONDS) -> None:
        self._commit_seconds = commit_seconds
        self._enrolments: dict[PeerId, Enrolment] = {}
        self._secrets: dict[str, _Secret] = {}
        self._keys: dict[str, str] = {}  # to their names
        self._leases: dict[str, LeaseTerms] = {}
        self._ends: dict[str, float] = {}  # of the leases
        self._receipts: dict[str, Receipt] = {}  # by id
        self._positions: dict[tuple[ModelPair, int, int], Positions] = {}  # by pair, day and depth

    async def admit(self, applicant: Applicant, *, now: float) -> Enrolment:
        await self._commit()
        known = self._enrolments.get(applicant.peer)
        if known is not None:
            if known.role is not applicant.role:
                raise RemoteProtocolError(f"this key is enrolled as a {known.role}", CloseCode.NOT_ENROLLED)
            return known
        if not applicant.secret:
            raise RemoteProtocolError("this key is not enrolled here: join with a token first", CloseCode.NOT_ENROLLED)
        secret = self._secrets.get(applicant.secret)
        if secret is None or secret.role is not applicant.role or secret.uses_left == 0 or now >= secret.expires:
            raise RemoteProtocolError("the join token is not good here", CloseCode.JOIN_REFUSED)
        secret.uses_left -= 1
        enrolment = self._enrolments[applicant.peer] = Enrolment(applicant.peer, applicant.role, secret.pool)
        return enrolment

    async def disenrolled(self, peers: Collection[PeerId]) -> frozenset[PeerId]:
        await self._commit()
        return frozenset(peers) - self._enrolments.keys()

    async def add_join_secret(
        self, secret: str, *, role: Role, pool: str, expires: float, uses: int, now: float
    ) -> None:
        await self._commit()
        self._secrets[secret] = _Secret(role, pool, expires, uses)

    async def add_api_key(self, name: str, key: str, *, now: float) -> None:
        await self._commit()
        if name in self._keys.values():
            raise ConfigError(f"there is an API key called {name!r} already: choose another name")
        self._keys[key] = name

    async def api_keys_exist(self) -> bool:
        return bool(self._keys)

    async def api_key_name(self, key: str) -> str | None:
        return self._keys.get(key)

    async def record_lease(self, terms: LeaseTerms, *, now: float, seconds: float) -> None:
        await self._commit()
        self._leases[terms.jti] = terms
        self._ends[terms.jti] = max(self._ends.get(terms.jti, 0.0), now + seconds)

    async def leases_in_force(self, *, now: float) -> Sequence[LeaseInForce]:
        await self._commit()
        lasting = sorted((expires, jti) for jti, expires in self._ends.items() if expires > now)
        latest: dict[tuple[PeerId, PeerId], LeaseInForce] = {}
        for expires, jti in lasting:
            terms = self._leases[jti]
            latest.pop((terms.node, terms.target), None)  # so that the order is that of their ends
            latest[terms.node, terms.target] = LeaseInForce(jti, terms.node, terms.target, terms.digest, expires - now)
        return list(latest.values())

    async def store_receipts(
        self, target: PeerId, receipts: Sequence[Receipt], *, now: float
    ) -> Sequence[tuple[Receipt, ModelPair | None]]:
        await self._commit()
        new: list[tuple[Receipt, ModelPair | None]] = []
        for receipt in receipts:
            if receipt.id not in self._receipts:
                pair = self._count(target, receipt, day_of(now))
                if pair is not None:
                    self._receipts[receipt.id] = receipt
                new.append((receipt, pair))
        return new

    def _count(self, target: PeerId, receipt: Receipt, day: int) -> ModelPair | None:
        terms = self._leases.get(receipt.jti)
        if terms is None or (terms.node, terms.target) != (receipt.node, target):
            return None
        pair = ModelPair(terms.target_model, terms.target_digest, terms.model, terms.digest)
        for depth, counts in enumerate(receipt.by_depth, 1):
            key = pair, day, depth
            self._positions[key] = self._positions.get(key, Positions()) + Positions(*counts)
        return pair

    async def acceptance(self, *, now: float) -> Sequence[Acceptance]:
        since = day_of(now) - RECENT_DAYS
        sums = ((pair, depth, day > since, counts) for (pair, day, depth), counts in self._positions.items())
        return by_pair(sums)[:MAX_PAIRS]

    async def tallies(self) -> Mapping[PeerId, Tally]:
        sums: dict[PeerId, Tally] = {}
        for receipt in self._receipts.values():
            tally = sums.setdefault(receipt.node, Tally())
            tally.drafted += receipt.drafted
            tally.verified += receipt.verified
            tally.accepted += receipt.accepted
            tally.won += receipt.won
        return sums

    async def check_writable(self) -> None:
        await self._commit()

    async def close(self) -> None:
        return None

    async def _commit(self) -> None:
        await asyncio.sleep(self._commit_seconds)
