"""Whether a coordinator will have a peer, asked before the peer has anything to register with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.settings import NodeSettings
from tests.support.fake_node_coordinator import FakeNodeCoordinator, expect
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import (
    CloseCode,
    ConfigError,
    LinkClosed,
    PeerRefused,
    RemoteProtocolError,
    Unreachable,
)
from wanspec_p2p.links import enrolling, membership
from wanspec_p2p.links.enrolling import Credentials
from wanspec_p2p.links.membership import Introduction, Membership
from wanspec_p2p.protocol.common_messages import ENROLMENT, Enrol, LeaseRevoked, Registered
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Role

QUESTION = Enrol("lab-a", "ada", "north", "s3cret")
FINAL = frozenset({CloseCode.NOT_ENROLLED, CloseCode.JOIN_REFUSED, CloseCode.VERSION_MISMATCH})
YET = "no coordinator yet: it is asked again when the model is ready"


def one_that_enrols() -> FakeNodeCoordinator:
    fake = FakeNodeCoordinator(Identity.generate(), Identity.generate(), ManualClock())
    fake.features = (ENROLMENT,)
    return fake


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeNodeCoordinator]:
    fake = one_that_enrols()
    yield fake
    await fake.close()


async def asked(
    coordinator: FakeNodeCoordinator, then: Awaitable[object] | None = None, *, enrolled: bool = False
) -> tuple[bool, list[Any]]:
    """What came of asking, while `then` happens; and the log."""
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            asking = asyncio.create_task(
                enrolling.ask(coordinator.dial, QUESTION, enrolled=enrolled, final=FINAL), name="asking"
            )
            if then is not None:
                await then
            return await asking, logs


async def test_who_is_let_in_is_told_and_leaves_in_order(coordinator: FakeNodeCoordinator) -> None:
    async def admit() -> None:
        link = await coordinator.next_link()
        assert await expect(link, Enrol) == QUESTION
        await link.send(Registered("lab", 2.0))
        with pytest.raises(LinkClosed, match="to come back when the model is ready"):  # no refusal: code 1000
            await link.receive()

    told, logs = await asked(coordinator, admit())
    assert told
    (line,) = logs
    assert (line["event"], line["log_level"], line["pool"]) == ("enrolled", "info", "lab")


async def test_a_coordinator_that_hangs_up_behind_its_answer_has_answered(coordinator: FakeNodeCoordinator) -> None:
    async def admit() -> None:
        link = await coordinator.next_link()
        await link.send(Registered("lab", 2.0))
        await link.close()

    assert (await asked(coordinator, admit()))[0]


async def test_a_coordinator_of_the_release_before_is_left_without_a_word(coordinator: FakeNodeCoordinator) -> None:
    coordinator.features = ()

    async def nothing_comes() -> None:
        link = await coordinator.next_link()
        with pytest.raises(LinkClosed):
            await link.receive()

    assert await asked(coordinator, nothing_comes()) == (False, [])


async def refuse(coordinator: FakeNodeCoordinator, code: CloseCode, reason: str) -> None:
    link = await coordinator.next_link()
    await expect(link, Enrol)
    await link.close(code, reason)


@pytest.mark.parametrize("code", sorted(FINAL - {CloseCode.VERSION_MISMATCH}))
async def test_a_refusal_for_good_goes_up_as_it_is(coordinator: FakeNodeCoordinator, code: CloseCode) -> None:
    with pytest.raises(PeerRefused, match="^used already$") as refusal:
        await asked(coordinator, refuse(coordinator, code, "used already"), enrolled=True)
    assert refusal.value.code == code


@pytest.mark.parametrize("code", [CloseCode.TRY_AGAIN_LATER, CloseCode.GOING_AWAY])
async def test_any_other_end_is_one_line_and_stops_nothing(coordinator: FakeNodeCoordinator, code: CloseCode) -> None:
    told, logs = await asked(coordinator, refuse(coordinator, code, "not now"))
    assert not told
    assert logs == [{"event": YET, "log_level": "warning", "reason": "not now"}]


async def test_a_coordinator_that_is_away_is_one_line_and_stops_nothing(coordinator: FakeNodeCoordinator) -> None:
    coordinator.failures = [Unreachable("nobody answers")]
    told, logs = await asked(coordinator)
    assert not told and coordinator.dialled == 1
    assert logs == [{"event": YET, "log_level": "warning", "reason": "nobody answers"}]


@in_virtual_time
async def test_one_that_is_silent_is_not_waited_for() -> None:
    coordinator = one_that_enrols()
    with capture_logs() as logs:
        asking = asyncio.create_task(enrolling.ask(coordinator.dial, QUESTION, enrolled=False, final=FINAL))
        link = await coordinator.next_link()
        await expect(link, Enrol)
        with pytest.raises(LinkClosed):
            await link.receive()
        assert not await asking
    assert [line["reason"] for line in logs] == ["it has not answered within 20 s"]
    assert asyncio.get_running_loop().time() == enrolling.SECONDS
    await coordinator.close()


@in_virtual_time
async def test_a_dial_that_takes_for_ever_is_given_up() -> None:
    async def dial() -> Any:
        await asyncio.Event().wait()

    assert not await enrolling.ask(dial, QUESTION, enrolled=False, final=FINAL)
    assert asyncio.get_running_loop().time() == enrolling.SECONDS


@pytest.mark.parametrize("enrolled", [False, True])
async def test_somebody_else_at_its_address_is_final_on_first_contact_alone(
    coordinator: FakeNodeCoordinator, enrolled: bool
) -> None:
    coordinator.failures = [RemoteProtocolError("another peer than expected", CloseCode.HANDSHAKE_FAILED)]
    if enrolled:
        told, (line,) = await asked(coordinator, enrolled=True)
        assert (told, line["event"], line["reason"]) == (False, YET, "another peer than expected")
    else:
        with pytest.raises(RemoteProtocolError, match="another peer"):
            await asked(coordinator)


@pytest.mark.parametrize("enrolled", [False, True])
async def test_another_version_at_its_address_is_final_on_first_contact_alone(
    coordinator: FakeNodeCoordinator, enrolled: bool
) -> None:
    coordinator.failures = [PeerRefused(CloseCode.VERSION_MISMATCH, "upgrade")]
    if enrolled:
        told, (line,) = await asked(coordinator, enrolled=True)
        assert (told, line["event"], line["reason"]) == (False, YET, "upgrade")
    else:
        with pytest.raises(PeerRefused, match="upgrade"):
            await asked(coordinator)


async def test_an_address_that_must_not_be_dialled_is_said(coordinator: FakeNodeCoordinator) -> None:
    coordinator.failures = [ConfigError("only wss:// leaves this machine")]
    with pytest.raises(ConfigError, match="only wss"):
        await asked(coordinator, enrolled=True)


async def test_another_answer_is_the_coordinators_fault(coordinator: FakeNodeCoordinator) -> None:
    async def answer_badly() -> None:
        link = await coordinator.next_link()
        await link.send(LeaseRevoked("jti", "why"))
        await expect(link, Enrol)
        with pytest.raises(PeerRefused, match="LeaseRevoked came before Registered") as end:
            await link.receive()
        assert end.value.code == CloseCode.PROTOCOL_ERROR

    with pytest.raises(RemoteProtocolError, match="LeaseRevoked came before Registered"):
        await asked(coordinator, answer_badly())


async def test_who_is_interrupted_hangs_up(coordinator: FakeNodeCoordinator) -> None:
    asking = asyncio.create_task(enrolling.ask(coordinator.dial, QUESTION, enrolled=False, final=FINAL))
    link = await coordinator.next_link()
    await expect(link, Enrol)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    with pytest.raises(LinkClosed):
        await link.receive()


# Credentials --------------------------------------------------------------------------------------------------------


def token(coordinator: Identity) -> str:
    return JoinToken("ws://127.0.0.1:9", coordinator.public_key, None, "s3cret", Role.NODE, "lab", 100).encode()


def test_a_token_makes_an_applicant_and_what_is_remembered_a_member(tmp_path: Path) -> None:
    coordinator, other = Identity.generate(), Identity.generate()
    settings = NodeSettings(data_dir=tmp_path, cache_dir=tmp_path, join=token(coordinator), owner="ada")
    first = Credentials.of(settings, Role.NODE, now=0.0)
    assert (first.secret, first.enrolled) == ("s3cret", False)
    assert first.question("lab-a", first.coordinator.said) == Enrol("lab-a", "ada", "unknown", "s3cret")
    first.keeper.keep(first.coordinator)
    again = Credentials.of(settings, Role.NODE, now=1000.0)  # the token has expired since, and is not needed
    assert (again.identity.peer_id, again.secret, again.enrolled) == (first.identity.peer_id, "s3cret", True)
    moved = NodeSettings(data_dir=tmp_path, cache_dir=tmp_path, join=token(other))
    assert not Credentials.of(moved, Role.NODE, now=0.0).enrolled
    later = Credentials.of(NodeSettings(data_dir=tmp_path, cache_dir=tmp_path), Role.NODE, now=0.0)
    assert (later.secret, later.enrolled, later.coordinator.said) == ("", True, Introduction(owner="ada"))
    assert later.question("lab-a", Introduction()) == Enrol("lab-a")
    assert membership.load(tmp_path / "coordinator.json") == Membership(
        "ws://127.0.0.1:9", coordinator.public_key, None, Introduction(owner="ada")
    )
