"""What a coordinator may say to `wanspec doctor`, which asks it whether a peer of this machine is enrolled still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from tests.support.fake_node_coordinator import FakeNodeCoordinator, expect
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.cli.doctor_enrolment import check_enrolment
from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable, UsageError
from wanspec_p2p.links import enrolling
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.common_messages import ENROLMENT, Enrol, LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

CHECK = "enrolment of the node"


def one_that_enrols(node: Identity) -> FakeNodeCoordinator:
    fake = FakeNodeCoordinator(Identity.generate(), node, ManualClock())
    fake.features = (ENROLMENT,)
    return fake


@pytest.fixture
def node(tmp_path: Path) -> Identity:
    return Identity.load_or_create(tmp_path / "identity.pem")


@pytest.fixture
async def coordinator(node: Identity) -> AsyncIterator[FakeNodeCoordinator]:
    fake = one_that_enrols(node)
    yield fake
    await fake.close()


async def asked(coordinator: FakeNodeCoordinator, key: Path, then: Awaitable[object] | None = None) -> Finding:
    """What came of asking, while `then` happens."""
    dialled: list[str] = []

    def dial(identity: Identity) -> Awaitable[PeerLink[CoordinatorToNode]]:
        dialled.append(identity.peer_id)
        return coordinator.dial()

    async with asyncio.timeout(30):
        asking = asyncio.create_task(check_enrolment(CHECK, Role.NODE, key, dial))
        if then is not None:
            await then
        found = await asking
    kept = Identity.load(key)
    assert kept is not None and dialled == [kept.peer_id]
    return found


async def test_who_is_known_is_told_so_without_a_secret(
    coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path
) -> None:
    async def admit() -> None:
        link = await coordinator.next_link()
        assert await expect(link, Enrol) == Enrol("wanspec doctor", "unknown", "unknown", join_secret="")
        await link.send(Registered("lab", 2.0))
        with pytest.raises(LinkClosed):  # in order: no refusal
            await link.receive()

    found = await asked(coordinator, tmp_path / "identity.pem", admit())
    assert found == Finding(CHECK, True, f"enrolled (pool lab) as {node.peer_id[:8]}")


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (
            CloseCode.NOT_ENROLLED,
            "this key is not enrolled here: join with a token first",
            "refused: this key is not enrolled here: join with a token first (where it was revoked or forgotten, "
            "a new one of the coordinator's operator: `wanspec node join TOKEN`)",
        ),
        (CloseCode.JOIN_REFUSED, "nobody is let in", "refused: nobody is let in"),
        (CloseCode.REPLACED, "this key is in use", "refused: this key is in use"),
        (CloseCode.VERSION_MISMATCH, "upgrade the older of the two", "refused: upgrade the older of the two"),
        (CloseCode.TRY_AGAIN_LATER, "no ledger", "the coordinator did not say: no ledger; try again"),
        (CloseCode.GOING_AWAY, "shutting down", "the coordinator did not say: shutting down; try again"),
    ],
)
async def test_a_refusal_is_one_line(
    coordinator: FakeNodeCoordinator, tmp_path: Path, node: Identity, code: CloseCode, reason: str, said: str
) -> None:
    async def refuse() -> None:
        link = await coordinator.next_link()
        await expect(link, Enrol)
        await link.close(code, reason)

    assert await asked(coordinator, tmp_path / "identity.pem", refuse()) == Finding(CHECK, False, said)


async def test_a_coordinator_of_the_release_before_is_not_asked(
    coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path
) -> None:
    coordinator.features = ()

    async def nothing_comes() -> None:
        link = await coordinator.next_link()
        with pytest.raises(LinkClosed):
            await link.receive()

    found = await asked(coordinator, tmp_path / "identity.pem", nothing_comes())
    assert found.ok
    assert found.detail == (
        "this coordinator is of a release that does not tell; `wanspec coordinator list peers` there does "
        f"(this node is {node.peer_id[:8]})"
    )


@in_virtual_time
async def test_one_that_is_silent_is_not_waited_for(node: Identity, tmp_path: Path) -> None:
    coordinator = one_that_enrols(node)

    async def say_nothing() -> None:
        link = await coordinator.next_link()
        await expect(link, Enrol)
        with pytest.raises(LinkClosed):
            await link.receive()

    found = await asked(coordinator, tmp_path / "identity.pem", say_nothing())
    assert found == Finding(CHECK, False, "the coordinator did not say: no answer within 20 s; try again")
    assert asyncio.get_running_loop().time() == enrolling.SECONDS
    await coordinator.close()


async def test_what_is_no_answer_is_said(coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path) -> None:
    async def answer_badly() -> None:
        link = await coordinator.next_link()
        await link.send(LeaseRevoked("jti", "why"))
        await expect(link, Enrol)
        with pytest.raises(PeerRefused, match="LeaseRevoked came before Registered"):
            await link.receive()

    with pytest.raises(RemoteProtocolError, match="LeaseRevoked came before Registered"):
        await asked(coordinator, tmp_path / "identity.pem", answer_badly())


async def test_one_that_has_just_gone_is_said(coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path) -> None:
    coordinator.failures = [Unreachable("nobody answers at ws://there")]
    with pytest.raises(Unreachable, match="nobody answers at ws://there"):
        await asked(coordinator, tmp_path / "identity.pem")


async def test_a_key_that_is_gone_is_not_made_and_nobody_is_dialled(
    coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path
) -> None:
    key = tmp_path / "none" / "identity.pem"
    found = await check_enrolment(CHECK, Role.NODE, key, lambda identity: coordinator.dial())
    assert not found.ok and not key.parent.exists() and coordinator.dialled == 0
    assert found.detail == (
        f"the key that was enrolled is gone from {key}: restore it from a copy, or run `wanspec node join TOKEN` "
        "with a new token"
    )


async def test_a_key_that_others_can_read_is_not_used(
    coordinator: FakeNodeCoordinator, node: Identity, tmp_path: Path
) -> None:
    (tmp_path / "identity.pem").chmod(0o644)
    with pytest.raises(UsageError, match="is open to others .* run `chmod 600"):
        await check_enrolment(CHECK, Role.NODE, tmp_path / "identity.pem", lambda identity: coordinator.dial())
    assert coordinator.dialled == 0
