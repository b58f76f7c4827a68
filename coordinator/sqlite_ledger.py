"""The ledger in one SQLite file: one thread writes, in batches, and nobody is told before the commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coordinator import statements
from coordinator.acceptance import SECONDS_A_DAY, Acceptance, ModelPair
from coordinator.events import LeaseInForce
from coordinator.instructions import LeaseTerms
from coordinator.ledger import Applicant, Enrolment, LedgerError
from coordinator.records import Tally
from coordinator.schema import open_database
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId, Role

__all__ = ["SqliteLedger"]

MAX_BATCH = 256
"""Calls that share one commit. A commit waits for the disk; with this many waiting, one wait serves them all."""
T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    run: Callable[[sqlite3.Connection], Any]
    outcome: Future[Any]


class SqliteLedger:
    """Implements `Ledger`.

    Args:
        receipt_days: after which a receipt is kept only as part of its node's sums, and a lease that has ended not at
            all; None: never.

    Raises:
        ConfigError: see `open_database`.
    """

    def __init__(self, path: Path, *, receipt_days: float | None = None) -> None:
        self._database = open_database(path)
        self._receipt_seconds = None if receipt_days is None else receipt_days * SECONDS_A_DAY
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    # Called from the event loop

    async def admit(self, applicant: Applicant, *, now: float) -> Enrolment:
        return await self._run(lambda database: statements.admit(database, applicant, now))

    async def disenrolled(self, peers: Collection[PeerId]) -> frozenset[PeerId]:
        return await self._run(lambda database: statements.disenrolled(database, peers))

    async def add_join_secret(
        self, secret: str, *, role: Role, pool: str, expires: float, uses: int, now: float
    ) -> None:
        await self._run(
            lambda database: statements.add_join_secret(
                database, secret, role=role, pool=pool, expires=expires, uses=uses, now=now
            )
        )

    async def add_api_key(self, name: str, key: str, *, now: float) -> None:
        await self._run(lambda database: statements.add_api_key(database, name, key, now))

    async def api_keys_exist(self) -> bool:
        return await self._run(statements.api_keys_exist)

    async def api_key_name(self, key: str) -> str | None:
        return await self._run(lambda database: statements.api_key_name(database, key))

    async def record_lease(self, terms: LeaseTerms, *, now: float, seconds: float) -> None:
        await self._run(lambda database: self._record(database, terms, now, seconds))

    async def leases_in_force(self, *, now: float) -> Sequence[LeaseInForce]:
        return await self._run(lambda database: statements.leases_in_force(database, now))

    async def store_receipts(
        self, target: PeerId, receipts: Sequence[Receipt], *, now: float
    ) -> Sequence[tuple[Receipt, ModelPair | None]]:
        return await self._run(lambda database: self._store(database, target, receipts, now))

    async def acceptance(self, *, now: float) -> Sequence[Acceptance]:
        return await self._run(lambda database: statements.acceptance(database, now))

    async def tallies(self) -> Mapping[PeerId, Tally]:
        return await self._run(statements.tallies)

    async def check_writable(self) -> None:
        await self._run(statements.rewrite_version)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._calls.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _run(self, run: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise LedgerError("the ledger is closed")
        call = _Call(run, Future())
        self._calls.put(call)
        # Shielded: a caller that goes away must not turn a write that happens into one that is reported cancelled.
        return await asyncio.shield(asyncio.wrap_future(call.outcome))

    # The writer thread

    def _record(self, database: sqlite3.Connection, terms: LeaseTerms, now: float, seconds: float) -> None:
        """As below. Old leases cannot go with receipts: there are leases that never have any."""
        statements.record_lease(database, terms, now, seconds)
        if self._receipt_seconds is not None:
            statements.forget_leases(database, now - self._receipt_seconds, 2)

    def _store(
        self, database: sqlite3.Connection, target: PeerId, receipts: Sequence[Receipt], now: float
    ) -> Sequence[tuple[Receipt, ModelPair | None]]:
        """Twice as many old ones go as come, so that the file stops growing, and no call takes long over it."""
        if self._receipt_seconds is not None:
            statements.fold_receipts(database, now - self._receipt_seconds, 2 * len(receipts))
        return statements.store_receipts(database, target, receipts, now)

    def _work(self) -> None:
        while (first := self._calls.get()) is not None:
            batch: list[_Call] = [first]
            last = False
            while len(batch) < MAX_BATCH and not self._calls.empty():
                following = self._calls.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            _commit(self._database, batch)
            if last:
                break
        self._database.close()


def _commit(database: sqlite3.Connection, batch: list[_Call]) -> None:
    """Run a batch in one transaction; each call in a savepoint of its own, so that one's failure is its own."""
    results: list[tuple[_Call, Any, BaseException | None]] = []
    try:
        database.execute("BEGIN IMMEDIATE")
        for call in batch:
            database.execute("SAVEPOINT call")
            try:
                results.append((call, call.run(database), None))
            except Exception as error:
                if not database.in_transaction:  # a full disk can undo the whole of it; then no call has been done
                    raise
                database.execute("ROLLBACK TO call")
                results.append((call, None, error))
            database.execute("RELEASE call")
        database.execute("COMMIT")
    except sqlite3.Error as error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        results = [(call, None, error) for call in batch]
    for call, result, failure in results:
        if isinstance(failure, sqlite3.Error):
            failure = LedgerError(f"the ledger cannot be written: {failure}")
        if failure is None:
            call.outcome.set_result(result)
        else:
            call.outcome.set_exception(failure)
