from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import statements
from coordinator.acceptance import ModelPair, Positions
from coordinator.events import LeaseInForce
from coordinator.instructions import LeaseTerms
from coordinator.ledger import Applicant, LedgerError
from coordinator.records import Tally
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import PeerId, Role

T = PeerId("t" * 32)
DAY = 86400.0


def applicant(name: str = "a", secret: str = "", role: Role = Role.NODE) -> Applicant:
    return Applicant(PeerId(name * 32), b"k" * 32, role, "name", "owner", "site", secret)


def receipt(id: str, node: str = "a", jti: str = "jti", by_depth: tuple[tuple[int, int], ...] = ()) -> Receipt:
    return Receipt(id, PeerId(node * 32), jti, "session", 4, 3, 2, won=1, rtt=0.1, by_depth=by_depth)


def terms(jti: str = "jti", node: str = "a", digest: str = "d" * 64) -> LeaseTerms:
    peers = PeerId(node * 32), T
    return LeaseTerms(jti, *peers, "o", "s", "p", "small", digest, "t" * 64, ("ws://x",), None, "big", "b" * 64)


PAIR = ModelPair("big", "b" * 64, "small", "d" * 64)


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    await ledger.add_join_secret("right", role=Role.NODE, pool="p", expires=100.0, uses=1, now=0.0)
    yield ledger
    await ledger.close()


async def test_a_secret_enrols_a_key_once_and_the_key_needs_none_after(ledger: SqliteLedger) -> None:
    enrolment = await ledger.admit(applicant(secret="right"), now=1.0)
    assert (enrolment.pool, enrolment.role) == ("p", Role.NODE)
    assert await ledger.admit(applicant(), now=1000.0) == enrolment
    assert await ledger.admit(applicant(secret="right"), now=1000.0) == enrolment  # the token is in its unit file


@pytest.mark.parametrize(
    ("who", "now", "code", "words"),
    [
        (applicant(), 1.0, CloseCode.NOT_ENROLLED, "not enrolled"),
        (applicant(secret="wrong"), 1.0, CloseCode.JOIN_REFUSED, "not one of this coordinator's"),
        (applicant(secret="right"), 100.0, CloseCode.JOIN_REFUSED, "expired"),
        (applicant(secret="right", role=Role.TARGET), 1.0, CloseCode.JOIN_REFUSED, "for a node, not for a target"),
    ],
    ids=["unknown", "wrong", "expired", "role"],
)
async def test_refusals(ledger: SqliteLedger, who: Applicant, now: float, code: CloseCode, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words) as refusal:
        await ledger.admit(who, now=now)
    assert refusal.value.code == code
    assert "right" not in refusal.value.reason
    assert (await ledger.admit(applicant(secret="right"), now=1.0)).pool == "p"  # nothing was used up


async def test_a_secret_used_up_is_refused(ledger: SqliteLedger) -> None:
    await ledger.admit(applicant("a", "right"), now=1.0)
    with pytest.raises(RemoteProtocolError, match="used already"):
        await ledger.admit(applicant("b", "right"), now=1.0)


async def test_a_key_keeps_the_role_it_enrolled_with(ledger: SqliteLedger) -> None:
    await ledger.admit(applicant("a", "right"), now=1.0)
    with pytest.raises(RemoteProtocolError, match="enrolled as a node: a target needs a --data-dir") as refusal:
        await ledger.admit(applicant("a", role=Role.TARGET), now=1.0)
    assert refusal.value.code == CloseCode.NOT_ENROLLED


async def test_of_many_that_redeem_one_secret_at_once_exactly_one_wins(tmp_path: Path, ledger: SqliteLedger) -> None:
    other = SqliteLedger(tmp_path / "ledger.sqlite3")  # as another process would
    names = "abcdefghij"
    outcomes = await asyncio.gather(
        *(which.admit(applicant(name, "right"), now=1.0) for name in names for which in (ledger, other)),
        return_exceptions=True,
    )
    await other.close()
    winners = {outcome.peer for outcome in outcomes if not isinstance(outcome, BaseException)}
    assert len(winners) == 1
    assert all(isinstance(outcome, RemoteProtocolError) for outcome in outcomes if isinstance(outcome, BaseException))


async def test_secrets_are_kept_as_hashes(tmp_path: Path, ledger: SqliteLedger) -> None:
    await ledger.add_api_key("mine", "wsk-very-secret", now=0.0)
    await ledger.close()
    content = everything_in(tmp_path)
    assert b"wsk-very-secret" not in content
    assert b"right" not in content


async def test_api_keys(ledger: SqliteLedger) -> None:
    assert not await ledger.api_keys_exist()
    await ledger.add_api_key("mine", "key", now=0.0)
    assert await ledger.api_keys_exist()
    assert await ledger.api_key_name("key") == "mine"
    assert await ledger.api_key_name("other") is None
    with pytest.raises(ConfigError, match="'mine' already"):
        await ledger.add_api_key("mine", "key 2", now=0.0)


async def test_a_receipt_sent_twice_is_stored_once(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=600.0, now=0.0)
    assert await ledger.store_receipts(T, [receipt("1"), receipt("2", "b", "jti-2")], now=0.0) == [
        (receipt("1"), PAIR),
        (receipt("2", "b", "jti-2"), PAIR),
    ]
    assert await ledger.store_receipts(T, [receipt("1"), receipt("3")], now=1.0) == [(receipt("3"), PAIR)]
    assert await ledger.tallies() == {PeerId("a" * 32): Tally(8, 6, 4, 2), PeerId("b" * 32): Tally(4, 3, 2, 1)}


async def test_what_an_earlier_version_let_in_does_not_keep_the_coordinator_from_starting(
    tmp_path: Path, ledger: SqliteLedger
) -> None:
    count = 1100  # so many of 2**53 are more than SQLite's sum can hold
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=600.0, now=0.0)
    await ledger.store_receipts(T, [receipt(f"old {n}") for n in range(count)], now=0.0)
    await ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as database:
        database.execute("UPDATE receipts SET (drafted, verified, accepted, won) = (?1, ?1, ?1, ?1)", (2**53,))
    database.close()
    again = SqliteLedger(tmp_path / "ledger.sqlite3")
    await again.store_receipts(T, [receipt("new"), receipt("other", "b", "jti-2")], now=0.0)
    tokens, positions = count * limits.MAX_DRAFTED, count * limits.MAX_PROMPT_TOKENS
    assert await again.tallies() == {
        PeerId("a" * 32): Tally(tokens + 4, tokens + 3, positions + 2, positions + 1),
        PeerId("b" * 32): Tally(4, 3, 2, 1),
    }
    await again.close()


async def test_old_receipts_are_kept_as_sums(tmp_path: Path, ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=600.0, now=0.0)
    await ledger.store_receipts(T, [receipt("1"), receipt("2"), receipt("3", "b", "jti-2")], now=0.0)
    row = ("not lent", T, "c" * 32, "jti", "s", 4, 3, 2, 1, None, 0.0)  # an earlier version kept those as well
    insert = "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    await ledger._run(lambda database: database.execute(insert, row))
    await ledger.close()

    aging = SqliteLedger(tmp_path / "ledger.sqlite3", receipt_days=10.0)

    async def kept() -> list[str]:
        rows = await aging._run(lambda database: database.execute("SELECT id FROM receipts ORDER BY id").fetchall())
        return [id for (id,) in rows]

    sums = {PeerId("a" * 32): Tally(8, 6, 4, 2), PeerId("b" * 32): Tally(4, 3, 2, 1)}
    assert await aging.tallies() == sums
    await aging.store_receipts(T, [receipt("1")], now=10.0 * DAY)  # not old enough, and known
    assert len(await kept()) == 4
    await aging.store_receipts(T, [receipt("4")], now=10.5 * DAY)
    assert len(await kept()) == 3, "twice as many go as come"
    await aging.store_receipts(T, [receipt("5", "b", "jti-2")], now=10.5 * DAY)
    assert await kept() == ["4", "5"]
    sums[PeerId("a" * 32)] = Tally(12, 9, 6, 3)
    sums[PeerId("b" * 32)] = Tally(8, 6, 4, 2)
    assert await aging.tallies() == sums
    await aging.store_receipts(T, [receipt("6")], now=21.0 * DAY)
    sums[PeerId("a" * 32)] = Tally(16, 12, 8, 4)
    assert (await kept(), await aging.tallies()) == (["6"], sums)
    await aging.close()


async def test_a_ledger_whose_receipts_age_stops_growing(tmp_path: Path, ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.close()
    aging = SqliteLedger(tmp_path / "ledger.sqlite3", receipt_days=1.0)
    pages = []
    for day in range(6):
        for batch in range(4):
            receipts = [receipt(f"{day} {batch} {number}") for number in range(256)]
            await aging.store_receipts(T, receipts, now=DAY * (day + batch / 4))
        pages.append((await aging._run(lambda database: database.execute("PRAGMA page_count").fetchone()))[0])
    assert pages[-1] == pages[-2] <= 1.1 * pages[1]
    await aging.close()


async def test_a_lease_is_in_force_until_it_ends_or_as_long_as_it_was_renewed_for(
    tmp_path: Path, ledger: SqliteLedger
) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=1000.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=60.0, now=1000.0)
    await ledger.record_lease(terms(), seconds=600.0, now=1300.0)
    await ledger.record_lease(terms(), seconds=600.0, now=1000.0)  # late: it changes nothing
    await ledger.close()
    again = SqliteLedger(tmp_path / "ledger.sqlite3")
    assert await again.leases_in_force(now=1059.0) == [
        LeaseInForce("jti-2", PeerId("b" * 32), T, "d" * 64, 1.0),
        LeaseInForce("jti", PeerId("a" * 32), T, "d" * 64, 841.0),
    ]
    assert [lease.jti for lease in await again.leases_in_force(now=1060.0)] == ["jti"]
    assert await again.leases_in_force(now=1900.0) == []
    await again.close()


async def leases_in(ledger: SqliteLedger) -> list[str]:
    rows = await ledger._run(lambda database: database.execute("SELECT jti FROM leases ORDER BY jti").fetchall())
    return [jti for (jti,) in rows]


async def receipts_in(ledger: SqliteLedger) -> int:
    rows = await ledger._run(lambda database: database.execute("SELECT count(*) FROM receipts").fetchall())
    return int(rows[0][0])


async def pairs_in(ledger: SqliteLedger) -> list[str]:
    """The last letter of each pair's drafter."""
    rows = await ledger._run(lambda database: database.execute("SELECT drafter_digest FROM model_pairs").fetchall())
    return sorted(digest[-1] for (digest,) in rows)


@pytest.fixture
async def aging(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    aging = SqliteLedger(tmp_path / "aging.sqlite3", receipt_days=10.0)
    yield aging
    await aging.close()


async def test_a_lease_is_forgotten_so_many_days_after_its_end(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("old"), seconds=600.0, now=0.9 * DAY)  # lasts a day at most, until 1.9
    await aging.record_lease(terms("1"), seconds=600.0, now=12.0 * DAY - 1.0)
    assert await leases_in(aging) == ["1", "old"]
    await aging.record_lease(terms("2"), seconds=600.0, now=12.0 * DAY)
    assert await leases_in(aging) == ["1", "2"]
    late = receipt("late", jti="old", by_depth=((3, 2),))
    unknown = receipt("unknown", jti="unknown", by_depth=((3, 2),))
    assert await aging.store_receipts(T, [late, unknown], now=12.0 * DAY) == [(late, None), (unknown, None)]
    assert await receipts_in(aging) == 0
    assert (await aging.tallies(), await aging.acceptance(now=12.0 * DAY)) == ({}, [])


async def test_a_pair_goes_with_the_last_lease_that_names_it(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("1", digest="1" * 64), seconds=600.0, now=0.0)
    await aging.record_lease(terms("2", digest="2" * 64), seconds=600.0, now=0.0)
    await aging.record_lease(terms("3", "b", digest="2" * 64), seconds=600.0, now=5.0 * DAY)
    await aging.record_lease(terms("4", digest="4" * 64), seconds=600.0, now=12.0 * DAY)
    assert (await leases_in(aging), await pairs_in(aging)) == (["3", "4"], ["2", "4"])
    await aging.record_lease(terms("4", digest="4" * 64), seconds=600.0, now=17.0 * DAY)
    assert (await leases_in(aging), await pairs_in(aging)) == (["4"], ["4"])


async def test_a_pair_goes_with_the_last_day_of_acceptance_that_names_it(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("old"), seconds=600.0, now=0.0)
    await aging.store_receipts(T, [receipt("old", jti="old", by_depth=((2, 1),))], now=0.0)
    for day in range(1, 91):
        await aging.record_lease(terms("new", digest="e" * 64), seconds=600.0, now=day * DAY)
        if day == 90:
            assert (await leases_in(aging), await pairs_in(aging)) == (["new"], ["d", "e"]), "acceptance names it yet"
        await aging.store_receipts(T, [receipt(str(day), jti="new", by_depth=((2, 1),))], now=day * DAY)
    assert await pairs_in(aging) == ["e"]


async def test_a_join_secret_is_told_what_became_of_it_for_thirty_days(ledger: SqliteLedger) -> None:
    for secret in ("used", "unused"):
        await ledger.add_join_secret(secret, role=Role.NODE, pool="p", expires=100.0, uses=1, now=0.0)
    await ledger.admit(applicant("a", "used"), now=0.0)

    async def refusals(now: float) -> list[str]:
        await ledger.add_join_secret(f"at {now}", role=Role.NODE, pool="p", expires=now + 1.0, uses=1, now=now)
        reasons = []
        for secret in ("used", "unused"):
            with pytest.raises(RemoteProtocolError) as refusal:
                await ledger.admit(applicant("b", secret), now=now)
            reasons.append(refusal.value.reason)
        return reasons

    used, unused = await refusals(100.0 + 30.0 * DAY)
    assert "has been used" in used
    assert "has expired" in unused
    used, unused = await refusals(101.0 + 30.0 * DAY)
    assert used == unused == "the join token is not one of this coordinator's"


async def test_a_lease_is_kept_while_it_is_renewed(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("ended"), seconds=600.0, now=0.0)
    for day in range(100):
        await aging.record_lease(terms("held"), seconds=600.0, now=day * DAY)
        await aging.record_lease(terms("held"), seconds=600.0, now=(day + 0.5) * DAY)
    assert await leases_in(aging) == ["held"]
    assert await aging.store_receipts(T, [receipt("1", jti="held")], now=100.0 * DAY) == [
        (receipt("1", jti="held"), PAIR)
    ]


async def test_a_receipt_keeps_its_lease_for_as_long_as_it_is_kept_itself(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("edge"), seconds=600.0, now=0.0)
    await aging.record_lease(terms("other", "b"), seconds=600.0, now=0.0)
    for stray in (receipt("stray 1", "b", "edge"), receipt("stray 2", "a", "other")):
        await aging.store_receipts(T, [stray], now=11.0 * DAY)  # of somebody else's lease: keeps neither
    assert await aging.store_receipts(T, [receipt("1", jti="edge")], now=11.9 * DAY) == [
        (receipt("1", jti="edge"), PAIR)
    ]
    await aging.record_lease(terms("new", "c"), seconds=600.0, now=12.0 * DAY)
    assert await leases_in(aging) == ["edge", "new"]
    for day in range(13, 40):
        await aging.record_lease(terms("new", "c"), seconds=600.0, now=day * DAY)
    assert await leases_in(aging) == ["edge", "new"], "no receipt has come, so none was folded"
    tallies = {PeerId("a" * 32): Tally(4, 3, 2, 1)}
    assert await aging.tallies() == tallies
    await aging.store_receipts(T, [receipt("2", "c", "new"), receipt("3", "c", "new")], now=40.0 * DAY)
    await aging.record_lease(terms("new", "c"), seconds=600.0, now=40.0 * DAY)
    assert await leases_in(aging) == ["new"]
    assert await aging.tallies() == {**tallies, PeerId("c" * 32): Tally(8, 6, 4, 2)}


async def test_what_has_counted_goes_on_counting_in_whatever_order_all_comes(aging: SqliteLedger) -> None:
    rng = random.Random(7)
    now, counted, forgotten, recorded = 0.0, 0, 0, list[tuple[str, str]]()
    for step in range(600):
        now += rng.expovariate(3.0) * DAY
        if rng.random() < 0.5:
            recorded.append((str(step), rng.choice("abc")))
            await aging.record_lease(terms(*recorded[-1]), seconds=600.0, now=now)
            continue
        jti, node = rng.choice(recorded[-60:])  # most of what is forgotten is among these
        for _, pair in await aging.store_receipts(T, [receipt(str(step), node, jti)], now=now):
            counted, forgotten = counted + (pair is not None), forgotten + (pair is None)
        if step % 10 == 0:
            assert sum(tally.won for tally in (await aging.tallies()).values()) == counted
    assert min(counted, forgotten) > 50
    assert len(await leases_in(aging)) < 150


async def test_two_old_leases_go_for_each_that_comes(tmp_path: Path, aging: SqliteLedger) -> None:
    for number in range(5):
        await aging.record_lease(terms(f"old {number}"), seconds=600.0, now=number * DAY)
    await aging.close()
    unaging = SqliteLedger(tmp_path / "aging.sqlite3")  # as commands beside the coordinator open it
    await unaging.record_lease(terms("new 0"), seconds=600.0, now=100.0 * DAY)
    assert len(await leases_in(unaging)) == 6
    await unaging.close()
    again = SqliteLedger(tmp_path / "aging.sqlite3", receipt_days=10.0)
    await again.record_lease(terms("new 1"), seconds=600.0, now=100.0 * DAY)
    assert await leases_in(again) == ["new 0", "new 1", "old 2", "old 3", "old 4"], "the oldest first"
    await again.record_lease(terms("new 1"), seconds=600.0, now=100.1 * DAY)
    await again.record_lease(terms("new 2"), seconds=600.0, now=100.1 * DAY)
    assert await leases_in(again) == ["new 0", "new 1", "new 2"]
    await again.close()


async def test_a_ledger_whose_leases_come_and_go_stops_growing(aging: SqliteLedger) -> None:
    pages = []
    for day in range(60):
        await asyncio.gather(
            *(aging.record_lease(terms(f"{day} {n}"), seconds=600.0, now=day * DAY) for n in range(200))
        )
        pages.append((await aging._run(lambda database: database.execute("PRAGMA page_count").fetchone()))[0])
    assert max(pages) <= 1.1 * pages[12]
    assert len(await leases_in(aging)) == 200 * 12


async def test_a_lease_that_is_renewed_is_known_again_whatever_the_clock_did(aging: SqliteLedger) -> None:
    await aging.record_lease(terms("held"), seconds=600.0, now=100.0 * DAY)
    await aging.record_lease(terms("ahead", "b"), seconds=600.0, now=500.0 * DAY)
    assert await leases_in(aging) == ["ahead"]
    await aging.record_lease(terms("held"), seconds=600.0, now=100.1 * DAY)
    await aging.store_receipts(T, [receipt("1", jti="held")], now=100.1 * DAY)
    assert await aging.tallies() == {PeerId("a" * 32): Tally(4, 3, 2, 1)}
    await aging.record_lease(terms("1", "c"), seconds=600.0, now=110.0 * DAY)
    assert await leases_in(aging) == ["1", "ahead", "held"]


async def test_one_calls_failure_leaves_the_others_of_its_batch_alone(ledger: SqliteLedger) -> None:
    outcomes = await asyncio.gather(
        ledger.record_lease(terms(), seconds=600.0, now=0.0),
        ledger.add_join_secret("right", role=Role.NODE, pool="p", expires=100.0, uses=1, now=0.0),  # there is one
        ledger.store_receipts(T, [receipt("1")], now=0.0),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], LedgerError)
    assert outcomes[2] == [(receipt("1"), PAIR)]
    assert len(await ledger.tallies()) == 1


async def test_acceptance_is_counted_once_by_the_models_of_the_lease(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=600.0, now=0.0)  # another node with the same model
    await ledger.record_lease(terms("jti-3", digest="e" * 64), seconds=600.0, now=0.0)  # the model's successor
    first = receipt("1", by_depth=((3, 2), (0, 0), (1, 0)))
    successors = [receipt("3", jti="jti-3", by_depth=((1, 1),))]
    batch = [first, first, receipt("2", "b", "jti-2", ((2, 2), (2, 1))), *successors]
    for _ in range(2):  # sent again, as after a crash
        await ledger.store_receipts(T, batch, now=0.0)
    known, successor = await ledger.acceptance(now=0.0)
    assert known.pair == PAIR
    assert known.by_depth == {1: Positions(5, 4), 2: Positions(2, 1), 3: Positions(1, 0)}
    assert (known.total, known.recent, known.before) == (Positions(8, 5), Positions(8, 5), Positions())
    assert (successor.pair.drafter_digest, successor.total) == ("e" * 64, Positions(1, 1))


async def test_a_batch_of_receipts_writes_a_position_once_however_many_name_it(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.record_lease(terms("jti-2", "b"), seconds=600.0, now=0.0)
    lent = (("a", "jti"), ("b", "jti-2"))
    batch = [receipt(f"{n}", *lent[n % 2], by_depth=((2, 1),) * (n + 1)) for n in range(40)]

    async def changes() -> int:
        return await ledger._run(lambda database: database.total_changes)

    before = await changes()
    assert await ledger.store_receipts(T, [*batch, *batch], now=DAY) == [(each, PAIR) for each in batch]
    assert await changes() - before == 40 + 40 + 2, "receipts, depths of their one pair of models, and leases in use"
    (known,) = await ledger.acceptance(now=DAY)
    assert known.by_depth == {depth: Positions(2 * (41 - depth), 41 - depth) for depth in range(1, 41)}
    before = await changes()
    assert await ledger.store_receipts(T, batch, now=DAY) == []
    assert await changes() == before


async def test_a_receipt_counts_only_under_a_lease_of_its_node_and_target(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    counts = ((3, 2),)
    assert await ledger.store_receipts(T, [receipt("1", jti="unknown", by_depth=counts)], now=0.0)
    assert await ledger.store_receipts(T, [receipt("2", "b", by_depth=counts)], now=0.0)  # node a's lease
    assert await ledger.store_receipts(PeerId("u" * 32), [receipt("3", by_depth=counts)], now=0.0)  # target T's
    assert await ledger.acceptance(now=0.0) == []
    assert await ledger.tallies() == {}
    assert await receipts_in(ledger) == 0, "nobody fills the disk with what counts for nothing"
    assert await ledger.store_receipts(T, [receipt("4", by_depth=counts)], now=0.0) == [
        (receipt("4", by_depth=counts), PAIR)
    ]
    assert await ledger.tallies() == {PeerId("a" * 32): Tally(4, 3, 2, 1)}


async def test_today_and_yesterday_are_recent_and_old_days_are_forgotten(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    for day in range(100):
        await ledger.store_receipts(T, [receipt(str(day), by_depth=((2, 1),))], now=DAY * (day + 0.999))
    (known,) = await ledger.acceptance(now=DAY * 99)
    assert (known.recent, known.before) == (Positions(4, 2), Positions(176, 88))
    (known,) = await ledger.acceptance(now=DAY * 101)
    assert (known.recent, known.total) == (Positions(), Positions(180, 90))


async def test_a_clock_that_was_ahead_for_a_while_erases_one_day_at_most(ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    for day in range(90):
        await ledger.store_receipts(T, [receipt(str(day), by_depth=((2, 1),))], now=DAY * day)
    for number, day in enumerate((190, 90, 190, 90)):
        await ledger.store_receipts(T, [receipt(f"later {number}", by_depth=((2, 1),))], now=DAY * day)
    (known,) = await ledger.acceptance(now=DAY * 90)
    assert known.total == Positions(2 * (88 + 4), 88 + 4)


async def test_acceptance_survives_a_restart(tmp_path: Path, ledger: SqliteLedger) -> None:
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    await ledger.store_receipts(T, [receipt("1", by_depth=((3, 2),))], now=0.0)
    before = await ledger.acceptance(now=0.0)
    await ledger.close()
    again = SqliteLedger(tmp_path / "ledger.sqlite3")
    await again.store_receipts(T, [receipt("1", by_depth=((3, 2),))], now=0.0)
    assert await again.acceptance(now=0.0) == before != []
    await again.store_receipts(T, [receipt("2", by_depth=((1, 1),))], now=0.0)  # under the lease of before
    assert (await again.acceptance(now=0.0))[0].total == Positions(4, 3)
    await again.close()


async def test_of_very_many_pairs_the_busiest_are_shown(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_PAIRS", 2)
    for number in range(3):
        await ledger.record_lease(terms(str(number), digest=f"{number:064}"), seconds=600.0, now=0.0)
        counts = ((number + 1, 0),)
        await ledger.store_receipts(T, [receipt(str(number), jti=str(number), by_depth=counts)], now=0.0)
    assert [known.total.reached for known in await ledger.acceptance(now=0.0)] == [3, 2]


async def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = SqliteLedger(path)
    await ledger.record_lease(terms(), seconds=600.0, now=0.0)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE receipts")
    with pytest.raises(LedgerError, match="the ledger cannot be written") as error:
        await ledger.store_receipts(T, [receipt("1")], now=0.0)
    assert "\n" not in str(error.value)
    other.close()
    await ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        await ledger.check_writable()
    await ledger.close()


_CHILD = """
import asyncio, sys
from pathlib import Path
from coordinator.instructions import LeaseTerms
from coordinator.ledger import Applicant
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.types import Role

async def main():
    ledger = SqliteLedger(Path(sys.argv[1]))
    await ledger.add_join_secret("s", role=Role.NODE, pool="p", expires=9e9, uses=1, now=0.0)
    await ledger.admit(Applicant("a" * 32, b"k" * 32, Role.NODE, "n", "o", "s", "s"), now=0.0)
    terms = ("o", "s", "p", "m", "d" * 64, "t" * 64, ("ws://x",), None, "big", "b" * 64)
    await ledger.record_lease(LeaseTerms("j", "a" * 32, "t" * 32, *terms), seconds=600.0, now=0.0)
    number = 0
    while True:
        counts = dict(drafted=1, verified=1, accepted=1, won=1, by_depth=((1, 1),))
        receipt = Receipt(str(number), "a" * 32, "j", "s", **counts)
        await ledger.store_receipts("t" * 32, [receipt], now=0.0)
        print(number, flush=True)  # acknowledged
        number += 1

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, str(path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    async with asyncio.timeout(30):
        while int(await child.stdout.readline()) < 50:
            pass
        os.kill(child.pid, signal.SIGKILL)
        rest = (await child.stdout.read()).split()
        await child.wait()
    acknowledged = int(rest[-1]) + 1 if rest else 51
    ledger = SqliteLedger(path)
    tallies = await ledger.tallies()
    stored = tallies[PeerId("a" * 32)].drafted
    assert stored >= acknowledged
    assert (await ledger.acceptance(now=0.0))[0].total == Positions(stored, stored), "of the same transactions"
    assert (await ledger.admit(applicant(), now=0.0)).pool == "p"
    await ledger.close()
