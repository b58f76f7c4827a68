"""The part of `wanspec doctor` that asks a coordinator whether it still knows a node or a target of this machine.

It asks as that peer, before it would register, and shows no token: nobody is enrolled by it, and nothing happens to the
service that runs with the same key (docs/decisions/0037-enrolled-before-the-model.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from wanspec_p2p.cli.findings import Finding
from wanspec_p2p.cli.output import short
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused
from wanspec_p2p.links import enrolling
from wanspec_p2p.links.peer import PeerLink
from wanspec_p2p.protocol.common_messages import Enrol
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Role

__all__ = ["QUESTION", "check_enrolment"]

QUESTION = Enrol("wanspec doctor")
"""The coordinator's log has the name; who is known keeps the one it joined with."""


async def check_enrolment(
    check: str, role: Role, key: Path, dial: Callable[[Identity], Awaitable[PeerLink[Any]]]
) -> Finding:
    """Whether it is enrolled still; that may take `enrolling.SECONDS`, as when a service asks.

    Args:
        key: the file of its identity.
        dial: opens a link to its coordinator.

    Raises:
        UsageError: the key cannot be used.
        Unreachable, RemoteProtocolError, ConfigError: as `dial`, and for an answer that is none.
    """
    identity = Identity.load(key)
    if identity is None:
        remedy = f"restore it from a copy, or run `wanspec {role} join TOKEN` with a new token"
        return Finding(check, False, f"the key that was enrolled is gone from {key}: {remedy}")
    link: PeerLink[Any] | None = None
    try:
        async with asyncio.timeout(enrolling.SECONDS):
            link = await dial(identity)
            told = await enrolling.answer(link, QUESTION)
    except PeerRefused as error:
        if error.code == CloseCode.TRY_AGAIN_LATER:
            return _untold(check, str(error))
        return Finding(check, False, f"refused: {error}{_remedy(role) if error.code == CloseCode.NOT_ENROLLED else ''}")
    except LinkClosed as error:
        return _untold(check, str(error))
    except TimeoutError:
        return _untold(check, f"no answer within {enrolling.SECONDS:g} s")
    finally:
        if link is not None:
            await link.close()
    us = short(identity.peer_id)
    if told is None:
        elsewhere = f"`wanspec coordinator list peers` there does (this {role} is {us})"
        return Finding(check, True, f"this coordinator is of a release that does not tell; {elsewhere}")
    return Finding(check, True, f"enrolled (pool {told.pool}) as {us}")


def _remedy(role: Role) -> str:
    """Revoked or forgotten is the same to a coordinator: it does not know the key."""
    return f" (where it was revoked or forgotten, a new one of the coordinator's operator: `wanspec {role} join TOKEN`)"


def _untold(check: str, reason: str) -> Finding:
    return Finding(check, False, f"the coordinator did not say: {reason}; try again")
