"""What a peer asks its coordinator before it prepares a model, which takes minutes and gigabytes: will you have me?

The answer decides nothing but whether to go on. Whoever was let in registers later, on another link
(docs/decisions/0037-enrolled-before-the-model.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable
from wanspec_p2p.links import membership
from wanspec_p2p.links.closing import ends_a_service
from wanspec_p2p.links.membership import UNKNOWN, Introduction, Keeper, Membership
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.common_messages import ENROLMENT, ControlMessage, Enrol, Registered
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

__all__ = ["Credentials", "answer", "ask"]

SECONDS = 20.0
"""What asking may take in all, however many addresses a coordinator has: those that do not answer take 10 s each."""

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=ControlMessage)


class Settings(Protocol):
    @property
    def data_dir(self) -> Path: ...

    @property
    def join(self) -> str | None: ...

    @property
    def said(self) -> Introduction: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """What its data directory, and the token it was given, make of a peer.

    Attributes:
        coordinator: the one it belongs to, or is to join.
        secret: to show there; empty where there is none.
        enrolled: that coordinator has taken it in before.
        keeper: of what is remembered of the coordinator.
    """

    identity: Identity
    coordinator: Membership
    secret: str
    enrolled: bool
    keeper: Keeper

    @classmethod
    def of(cls, settings: Settings, role: Role, *, now: float) -> Credentials:
        """Raises UsageError for a token, a key or a file that will not do."""
        identity = Identity.load_or_create(settings.data_dir / "identity.pem")
        file = settings.data_dir / "coordinator.json"
        known = membership.load(file)
        coordinator, secret = membership.coordinator_of(settings.join, known, said=settings.said, role=role, now=now)
        enrolled = known is not None and known.coordinator == coordinator.coordinator
        return cls(identity, coordinator, secret, enrolled, Keeper(file, known))

    def question(self, name: str, said: Introduction) -> Enrol:
        """`said` tells whose this peer is, and where it stands."""
        return Enrol(name, said.owner or UNKNOWN, said.site or UNKNOWN, self.secret)


async def ask(
    dial: Callable[[], Awaitable[PeerLink[T]]], question: Enrol, *, enrolled: bool, final: Collection[int]
) -> bool:
    """Whether the coordinator says that this peer is enrolled; where it cannot be asked, a line of the log says why.

    Args:
        enrolled: it was before. Then somebody else who answers, or somebody who speaks another version, is no reason to
            end: the coordinator may come back.
        final: close codes of refusals that another try would not change.

    Raises:
        PeerRefused: the coordinator does not want this peer.
        RemoteProtocolError: on first contact, whoever answers is not the coordinator.
        ConfigError: its address must not be dialled.
    """
    link: PeerLink[T] | None = None
    try:
        async with asyncio.timeout(SECONDS):
            link = await dial()
            told = await answer(link, question)
        if told is not None:
            log.info("enrolled", coordinator=link.peer, pool=told.pool)
        return told is not None  # where it is None, the coordinator says what it has to say when we register
    except PeerRefused as error:
        if ends_a_service(error, final, enrolled=enrolled):
            raise
        reason = str(error)
    except RemoteProtocolError as error:
        if not enrolled:
            raise
        reason = error.reason
    except (Unreachable, LinkClosed) as error:
        reason = str(error)
    except TimeoutError:
        reason = f"it has not answered within {SECONDS:g} s"
    finally:
        if link is not None:
            await link.close(CloseCode.NORMAL, "to come back when the model is ready")
    log.warning("no coordinator yet: it is asked again when the model is ready", reason=reason)
    return False


async def answer(link: PeerLink[T], question: Enrol) -> Registered | None:
    """What the coordinator at the other end says to `question`; None where it is of the release before, and not asked.

    Raises:
        PeerRefused, LinkClosed: it does not want this peer, or has gone.
        RemoteProtocolError: it says something else. The link is closed.
    """
    if ENROLMENT not in link.features:
        return None
    try:
        await link.send(question)
        told = await link.receive()
        if not isinstance(told, Registered):
            raise RemoteProtocolError(f"{type(told).__name__} came before Registered")
    except RemoteProtocolError as error:
        await link.close(error.code, error.reason)
        raise
    return told
