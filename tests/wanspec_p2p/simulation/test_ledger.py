"""The ledger without a disk must answer as the one with a disk does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.instructions import LeaseTerms
from coordinator.ledger import Applicant, Ledger
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p.errors import CloseCode, ConfigError, RemoteProtocolError
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.simulation.ledger import MemoryLedger
from wanspec_p2p.types import PeerId, Role, SessionId

NOW = 1_800_000_000.0
NODE, TARGET = PeerId("n" * 32), PeerId("t" * 32)


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    made: Ledger = MemoryLedger(0.0) if request.param == "memory" else SqliteLedger(tmp_path / "ledger.sqlite3")
    yield made
    await made.close()


def applicant(secret: str = "", *, peer: PeerId = NODE, role: Role = Role.NODE) -> Applicant:
    return Applicant(peer, bytes(32), role, "name", "owner", "site", secret)


def terms(jti: str) -> LeaseTerms:
    return LeaseTerms(
        jti=jti,
        node=NODE,
        target=TARGET,
        owner="owner",
        site="site",
        pool="default",
        model="small",
        digest="d" * 64,
        tokenizer="e" * 64,
        addresses=("ws://127.0.0.1:1/",),
        certificate=None,
        target_model="large",
        target_digest="f" * 64,
    )


def receipt(name: str, jti: str = "lease", node: PeerId = NODE) -> Receipt:
    return Receipt(
        id=name,
        node=node,
        jti=jti,
        session=SessionId("s"),
        drafted=10,
        verified=8,
        accepted=6,
        won=5,
        rtt=0.03,
        by_depth=((6, 5), (3, 1)),
    )


async def refusal(ledger: Ledger, who: Applicant, now: float = NOW) -> int:
    with pytest.raises(RemoteProtocolError) as caught:
        await ledger.admit(who, now=now)
    return caught.value.code


async def test_who_is_not_enrolled_is_told_apart(ledger: Ledger) -> None:
    await ledger.add_join_secret("one", role=Role.NODE, pool="lab", expires=NOW + 10, uses=1, now=NOW)
    await ledger.admit(applicant("one"), now=NOW)
    stranger = PeerId("o'\"")
    assert await ledger.disenrolled([NODE, stranger]) == {stranger}
    assert await ledger.disenrolled([]) == frozenset()


async def test_a_secret_admits_so_many_of_its_role_until_it_expires(ledger: Ledger) -> None:
    await ledger.add_join_secret("one", role=Role.NODE, pool="lab", expires=NOW + 10, uses=1, now=NOW)
    await ledger.add_join_secret("late", role=Role.NODE, pool="lab", expires=NOW + 10, uses=1, now=NOW)
    other = PeerId("o" * 32)
    assert await refusal(ledger, applicant()) == CloseCode.NOT_ENROLLED
    assert await refusal(ledger, applicant("wrong")) == CloseCode.JOIN_REFUSED
    assert await refusal(ledger, applicant("one", role=Role.TARGET)) == CloseCode.JOIN_REFUSED
    assert await refusal(ledger, applicant("late"), NOW + 10) == CloseCode.JOIN_REFUSED
    assert (await ledger.admit(applicant("one"), now=NOW)).pool == "lab"
    assert await refusal(ledger, applicant("one", peer=other)) == CloseCode.JOIN_REFUSED
    assert (await ledger.admit(applicant(), now=NOW)).pool == "lab", "a known key needs no secret"
    assert await refusal(ledger, applicant(role=Role.TARGET)) == CloseCode.NOT_ENROLLED


async def test_receipts_count_once_and_acceptance_with_them(ledger: Ledger) -> None:
    await ledger.record_lease(terms("lease"), seconds=600.0, now=NOW)
    batch = [receipt("one"), receipt("two"), receipt("stray", jti="unknown")]
    new = await ledger.store_receipts(TARGET, batch, now=NOW)
    assert [(kept.id, pair is not None) for kept, pair in new] == [("one", True), ("two", True), ("stray", False)]
    await ledger.record_lease(terms("lease"), seconds=600.0, now=NOW + 300)
    assert await ledger.store_receipts(TARGET, batch, now=NOW) == [(batch[2], None)], "it was not kept"
    (figures,) = await ledger.acceptance(now=NOW)
    assert (figures.pair.target, figures.pair.drafter) == ("large", "small")
    assert [(depth, p.reached, p.right) for depth, p in sorted(figures.by_depth.items())] == [(1, 12, 10), (2, 6, 2)]
    assert (figures.recent.reached, figures.before.reached) == (18, 0)
    (later,) = await ledger.acceptance(now=NOW + 10 * 86_400)
    assert (later.recent.reached, later.before.reached) == (0, 18)
    tally = (await ledger.tallies())[NODE]
    assert (tally.drafted, tally.verified, tally.accepted, tally.won) == (20, 16, 12, 10), (
        "the stray counts for nothing"
    )


async def test_of_the_leases_of_two_peers_the_last_to_end_is_in_force(ledger: Ledger) -> None:
    await ledger.record_lease(terms("long"), seconds=600.0, now=NOW)
    await ledger.record_lease(terms("short"), seconds=60.0, now=NOW)
    (lease,) = await ledger.leases_in_force(now=NOW)
    assert (lease.jti, lease.node, lease.target, lease.digest) == ("long", NODE, TARGET, "d" * 64)
    assert lease.seconds == 600.0
    assert await ledger.leases_in_force(now=NOW + 600.0) == []


async def test_keys_have_names_of_their_own(ledger: Ledger) -> None:
    assert not await ledger.api_keys_exist()
    await ledger.add_api_key("alice", "key", now=NOW)
    with pytest.raises(ConfigError, match="alice"):
        await ledger.add_api_key("alice", "another", now=NOW)
    assert await ledger.api_keys_exist()
    assert (await ledger.api_key_name("key"), await ledger.api_key_name("no key")) == ("alice", None)
    await ledger.check_writable()
