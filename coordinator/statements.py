"""The ledger's statements, as functions of a connection inside a transaction that the caller commits."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.acceptance import (
    DAYS_KEPT,
    RECENT_DAYS,
    SECONDS_A_DAY,
    Acceptance,
    ModelPair,
    Positions,
    by_pair,
    day_of,
)
from coordinator.events import LeaseInForce
from coordinator.instructions import LeaseTerms
from coordinator.ledger import MAX_PAIRS, Applicant, Enrolment
from coordinator.records import Tally
from coordinator.settings import MAX_LEASE_SECONDS
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId, Role

__all__ = [
    "acceptance",
    "add_api_key",
    "add_join_secret",
    "admit",
    "api_key_name",
    "api_keys",
    "api_keys_exist",
    "disenrol",
    "disenrolled",
    "enrolled",
    "enrolments",
    "fold_receipts",
    "forget_leases",
    "leases_in_force",
    "open_join_secrets",
    "record_lease",
    "remove_api_key",
    "rewrite_version",
    "spend_join_secret",
    "spend_join_secrets",
    "store_receipts",
    "tallies",
]

SECRET_DAYS = 30
"""After its end for which somebody who tries a join token is told that it was used, or has expired."""
_NOBODY = ""
"""Name of a key that nobody has: it stands for keys that were removed, so that one is needed still."""


def rewrite_version(database: sqlite3.Connection) -> None:
    """The smallest write there is: the schema version over itself. A full disk refuses it, a read never would."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    database.execute(f"PRAGMA user_version = {int(version)}")


def _hash(secret: str) -> bytes:
    """Secrets are random and long, so a plain hash is enough: there is nothing to guess (unlike a password)."""
    return hashlib.sha256(secret.encode()).digest()


def admit(database: sqlite3.Connection, applicant: Applicant, now: float) -> Enrolment:
    row = database.execute("SELECT role, pool FROM enrolments WHERE peer = ?", (applicant.peer,)).fetchone()
    if row is not None:
        role, pool = row
        if role != applicant.role.value:
            wanted = f"a {applicant.role.value} needs a --data-dir and a join token of its own"
            raise RemoteProtocolError(f"this key is enrolled as a {role}: {wanted}", CloseCode.NOT_ENROLLED)
        return Enrolment(applicant.peer, applicant.role, pool)
    if not applicant.secret:
        raise RemoteProtocolError("this key is not enrolled here: join with a token first", CloseCode.NOT_ENROLLED)
    pool = _redeem(database, applicant, now)
    database.execute(
        "INSERT INTO enrolments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            applicant.peer,
            applicant.public_key,
            applicant.role.value,
            pool,
            applicant.name,
            applicant.owner,
            applicant.site,
            now,
        ),
    )
    return Enrolment(applicant.peer, applicant.role, pool)


def _redeem(database: sqlite3.Connection, applicant: Applicant, now: float) -> str:
    """Use the secret once; the pool it admits to."""
    secret = _hash(applicant.secret)
    row = database.execute(
        "SELECT role, pool, expires, uses_left FROM join_secrets WHERE hash = ?", (secret,)
    ).fetchone()
    if row is None:
        raise _refused("the join token is not one of this coordinator's")
    role, pool, expires, uses_left = row
    if role != applicant.role.value:
        raise _refused(f"the join token is for a {role}, not for a {applicant.role.value}")
    if uses_left == 0:
        raise _refused("the join token has been used already: ask for a new one")
    if now >= expires:
        raise _refused("the join token has expired: ask for a new one")
    database.execute("UPDATE join_secrets SET uses_left = uses_left - 1 WHERE hash = ?", (secret,))
    return str(pool)


def _refused(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, CloseCode.JOIN_REFUSED)


def add_join_secret(
    database: sqlite3.Connection, secret: str, *, role: Role, pool: str, expires: float, uses: int, now: float
) -> None:
    """Those that ended long ago go: of one that is unknown nobody is told why it does not admit."""
    row = (_hash(secret), role.value, pool, expires, uses, now)
    database.execute("INSERT INTO join_secrets VALUES (?, ?, ?, ?, ?, ?)", row)
    database.execute("DELETE FROM join_secrets WHERE expires < ?", (now - SECRET_DAYS * SECONDS_A_DAY,))


def spend_join_secret(database: sqlite3.Connection, secret: str) -> bool:
    """Let it admit nobody any more; whether there is such a secret."""
    changed = database.execute("UPDATE join_secrets SET uses_left = 0 WHERE hash = ?", (_hash(secret),))
    return changed.rowcount > 0


def spend_join_secrets(database: sqlite3.Connection, now: float) -> int:
    """The same of all that still would admit somebody; how many they were."""
    return database.execute(
        "UPDATE join_secrets SET uses_left = 0 WHERE uses_left > 0 AND expires > ?", (now,)
    ).rowcount


_PEER = "SELECT peer, role, name, owner, site, pool, enrolled FROM enrolments"


def enrolments(database: sqlite3.Connection) -> Sequence[tuple[str, str, str, str, str, str, float]]:
    """(id, role, name, owner, site, pool, when) of all who are enrolled, as they introduced themselves then."""
    return database.execute(f"{_PEER} ORDER BY role, name, peer").fetchall()


def enrolled(database: sqlite3.Connection, words: str) -> Sequence[tuple[str, str, str, str, str, str, float]]:
    """The same of the peer with this id, or else of those whose ids begin so or whose name it is; two at most, which is
    one too many to mean one. A name is chosen by who bears it, and must hide nobody whose whole id is given."""
    whole = database.execute(f"{_PEER} WHERE peer = ?", (words,)).fetchall()
    return (
        whole
        or database.execute(
            f"{_PEER} WHERE substr(peer, 1, ?) = ? OR name = ? LIMIT 2", (len(words), words, words)
        ).fetchall()
    )


def open_join_secrets(database: sqlite3.Connection, now: float) -> Sequence[tuple[str, str, int, float]]:
    """(role, pool, uses left, when it expires) of those that would still admit somebody."""
    return database.execute(
        "SELECT role, pool, uses_left, expires FROM join_secrets WHERE uses_left > 0 AND expires > ? ORDER BY expires",
        (now,),
    ).fetchall()


def api_keys(database: sqlite3.Connection) -> Sequence[tuple[str, float]]:
    """(name, when it was made) of those that are accepted."""
    return database.execute("SELECT name, created FROM api_keys WHERE name != ? ORDER BY name", (_NOBODY,)).fetchall()


def disenrol(database: sqlite3.Connection, peer: PeerId) -> None:
    database.execute("DELETE FROM enrolments WHERE peer = ?", (peer,))


def disenrolled(database: sqlite3.Connection, peers: Collection[PeerId]) -> frozenset[PeerId]:
    rows = database.execute(
        "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT peer FROM enrolments)", (json.dumps(list(peers)),)
    )
    return frozenset(PeerId(peer) for (peer,) in rows)


def remove_api_key(database: sqlite3.Connection, key: str) -> str | None:
    """By its name, or by the key itself; the name, None where there is none. Keys are needed after the last one too."""
    row = database.execute(
        "DELETE FROM api_keys WHERE (name = ? OR hash = ?) AND name != ? RETURNING name", (key, _hash(key), _NOBODY)
    ).fetchone()
    if row is None:
        return None
    database.execute("INSERT INTO api_keys VALUES (randomblob(32), ?, 0) ON CONFLICT (name) DO NOTHING", (_NOBODY,))
    return str(row[0])


def api_keys_exist(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is not None


def api_key_name(database: sqlite3.Connection, key: str) -> str | None:
    row = database.execute("SELECT name FROM api_keys WHERE hash = ?", (_hash(key),)).fetchone()
    return None if row is None else str(row[0])


def record_lease(database: sqlite3.Connection, terms: LeaseTerms, now: float, seconds: float) -> None:
    pair = (terms.target_model, terms.target_digest, terms.model, terms.digest)
    database.execute(
        "INSERT INTO model_pairs (target, target_digest, drafter, drafter_digest) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        pair,
    )
    (number,) = database.execute(
        "SELECT id FROM model_pairs WHERE (target, target_digest, drafter, drafter_digest) = (?, ?, ?, ?)", pair
    ).fetchone()
    row = (terms.jti, terms.node, terms.target, terms.pool, terms.model, now, number, day_of(now), now + seconds)
    database.execute(
        "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (jti) DO UPDATE "
        "SET used = max(used, excluded.used), expires = max(expires, excluded.expires)",
        row,
    )


def leases_in_force(database: sqlite3.Connection, now: float) -> Sequence[LeaseInForce]:
    """Of each node and target the one that ends last: they have one at a time, and those of before may have been let
    go of early, which nobody wrote down."""
    rows = database.execute(
        "SELECT jti, node, leases.target, drafter_digest, max(expires) FROM leases JOIN model_pairs ON id = pair "
        "WHERE expires > ? GROUP BY node, leases.target ORDER BY expires, jti",
        (now,),
    )
    return [
        LeaseInForce(jti, PeerId(node), PeerId(target), digest, expires - now)
        for jti, node, target, digest, expires in rows
    ]


def forget_leases(database: sqlite3.Connection, before: float, most: int) -> None:
    """Of the leases that had ended before then those that were used longest ago, at most so many.

    None goes by which a receipt counts that is kept: its lease was in use on the day it was stored, or later.
    """
    (oldest,) = database.execute("SELECT min(stored) FROM receipts").fetchone()
    day = day_of(before - MAX_LEASE_SECONDS)  # renewed late on its last day, it went on into the next
    gone = database.execute(
        "DELETE FROM leases WHERE jti IN (SELECT jti FROM leases WHERE used < ? ORDER BY used LIMIT ?) RETURNING pair",
        (day if oldest is None else min(day, day_of(oldest)), most),
    ).fetchall()
    _forget_pairs(database, gone)


def _forget_pairs(database: sqlite3.Connection, pairs: Collection[tuple[int | None]]) -> None:
    """Those that nothing names any more: peers make up names and digests, and could make up any number."""
    database.executemany(
        "DELETE FROM model_pairs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM leases WHERE pair = id) "
        "AND NOT EXISTS (SELECT 1 FROM acceptance WHERE pair = id)",
        set(pairs),
    )


def add_api_key(database: sqlite3.Connection, name: str, key: str, now: float) -> None:
    try:
        database.execute("INSERT INTO api_keys VALUES (?, ?, ?)", (_hash(key), name, now))
    except sqlite3.IntegrityError as error:
        raise ConfigError(f"there is an API key called {name!r} already: choose another name") from error


def store_receipts(
    database: sqlite3.Connection, target: PeerId, receipts: Sequence[Receipt], now: float
) -> Sequence[tuple[Receipt, ModelPair | None]]:
    new: list[tuple[Receipt, ModelPair | None]] = []
    kept: list[Receipt] = []
    day = day_of(now)
    day_begins = database.execute("SELECT 1 FROM acceptance WHERE day = ? LIMIT 1", (day,)).fetchone() is None
    named = dict.fromkeys((receipt.jti, receipt.node) for receipt in receipts)
    leases = {(jti, node): _lease(database, jti, node, target) for jti, node in named}
    for receipt in receipts:
        lease = leases[receipt.jti, receipt.node]
        if lease is None:
            new.append((receipt, None))
        elif _insert(database, target, receipt, now):
            new.append((receipt, lease.models))
            kept.append(receipt)
    used = dict.fromkeys(receipt.jti for receipt in kept)
    database.executemany("UPDATE leases SET used = ? WHERE jti = ? AND used < ?", [(day, jti, day) for jti in used])
    _count_positions(database, day, [(leases[receipt.jti, receipt.node], receipt) for receipt in kept])
    if day_begins:
        gone = database.execute(
            "DELETE FROM acceptance WHERE day < "
            "(SELECT min(day) FROM (SELECT DISTINCT day FROM acceptance ORDER BY day DESC LIMIT ?)) RETURNING pair",
            (DAYS_KEPT,),
        ).fetchall()
        _forget_pairs(database, gone)
    return new


@dataclass(frozen=True, slots=True)
class _Lease:
    pair: int | None
    models: ModelPair | None  # None where nobody wrote down which they are


def _lease(database: sqlite3.Connection, jti: str, node: PeerId, target: PeerId) -> _Lease | None:
    """The one of this name for these two peers, if the ledger has it: a target could make up any number."""
    row = database.execute(
        "SELECT id, model_pairs.target, target_digest, drafter, drafter_digest "
        "FROM leases LEFT JOIN model_pairs ON id = pair WHERE (jti, node, leases.target) = (?, ?, ?)",
        (jti, node, target),
    ).fetchone()
    if row is None:
        return None
    pair, *models = row
    return _Lease(pair, None if pair is None else ModelPair(*models))


def _insert(database: sqlite3.Connection, target: PeerId, receipt: Receipt, now: float) -> bool:
    """Whether it was new."""
    counts = (receipt.drafted, receipt.verified, receipt.accepted, receipt.won, receipt.rtt)
    cursor = database.execute(
        "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (receipt.id, target, receipt.node, receipt.jti, receipt.session, *counts, now),
    )
    return cursor.rowcount > 0


def _count_positions(database: sqlite3.Connection, day: int, receipts: Iterable[tuple[_Lease | None, Receipt]]) -> None:
    """Summed up first: a target can name a thousand times as many positions as there are rows to write."""
    told: dict[int, list[Sequence[tuple[int, int]]]] = {}
    for lease, receipt in receipts:
        if lease is not None and lease.pair is not None:
            told.setdefault(lease.pair, []).append(receipt.by_depth)
    rows: list[tuple[int, int, int, int, int]] = []
    for pair, counts in told.items():
        for depth, each in enumerate(itertools.zip_longest(*counts, fillvalue=(0, 0)), 1):
            if reached := sum(reached for reached, _ in each):
                rows.append((day, pair, depth, reached, sum(right for _, right in each)))
    database.executemany(
        "INSERT INTO acceptance VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
        "SET reached = reached + excluded.reached, agreed = agreed + excluded.agreed",
        rows,
    )


_COUNTING = (
    "SELECT receipts.node AS node, min(drafted, :tokens) AS drafted, min(verified, :tokens) AS verified, "
    "min(accepted, :positions) AS accepted, min(won, :positions) AS won FROM receipts JOIN leases "
    "ON (leases.jti, leases.node, leases.target) = (receipts.jti, receipts.node, receipts.target)"
)
"""What a target says of a node it was never lent is nobody's contribution.

Earlier versions stored counts up to 2**53, of which SQLite's sum overflows after about a thousand: one target that lied
would stop the coordinator from starting. Such a count is read as the most that a receipt may say now.
"""
_MOST = {"tokens": limits.MAX_DRAFTED, "positions": limits.MAX_PROMPT_TOKENS}


def fold_receipts(database: sqlite3.Connection, before: float, most: int) -> None:
    """Of the receipts stored before then the oldest, at most so many: kept from now on as sums of their nodes alone."""
    old = "SELECT id FROM receipts WHERE stored < :before ORDER BY stored, id LIMIT :most"
    which = {"before": before, "most": most}
    database.execute(
        "INSERT INTO contributions SELECT node, sum(drafted), sum(verified), sum(accepted), sum(won) FROM "
        f"({_COUNTING} WHERE receipts.id IN ({old})) GROUP BY node ON CONFLICT DO UPDATE SET "
        "drafted = drafted + excluded.drafted, verified = verified + excluded.verified, "
        "accepted = accepted + excluded.accepted, won = won + excluded.won",
        {**_MOST, **which},
    )
    database.execute(f"DELETE FROM receipts WHERE id IN ({old})", which)


def acceptance(database: sqlite3.Connection, now: float) -> Sequence[Acceptance]:
    rows = database.execute(
        "SELECT target, target_digest, drafter, drafter_digest, depth, day > ? AS recent, "
        "sum(reached), sum(agreed) FROM acceptance JOIN model_pairs ON id = pair GROUP BY pair, depth, recent",
        (day_of(now) - RECENT_DAYS,),
    )
    sums = (
        (ModelPair(*models), depth, bool(recent), Positions(reached, right))
        for *models, depth, recent, reached, right in rows
    )
    return by_pair(sums)[:MAX_PAIRS]


def tallies(database: sqlite3.Connection) -> Mapping[PeerId, Tally]:
    rows = database.execute(
        "SELECT node, sum(drafted), sum(verified), sum(accepted), sum(won) FROM "
        f"({_COUNTING} UNION ALL SELECT * FROM contributions) GROUP BY node",
        _MOST,
    )
    return {PeerId(node): Tally(*sums) for node, *sums in rows}
