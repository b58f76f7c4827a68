"""What `wanspec doctor` finds: one line each, and where something is wrong also what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wanspec_p2p.errors import Unauthenticated, WanspecError

__all__ = ["Finding", "guarded", "key_advice"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    detail: str


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What is wrong is a finding, not the end of the examination."""
    try:
        return look()
    except Unauthenticated as error:
        return Finding(check, False, key_advice(error))
    except (WanspecError, OSError) as error:
        return Finding(check, False, str(error))


def key_advice(error: Unauthenticated) -> str:
    """The coordinator speaks to programs, of headers; a command has other places for a key."""
    reason, _, _ = str(error).partition(":")
    return (
        f"{reason}: set WANSPEC_API_KEY, put api_key into [submitter] of wanspec.toml, or give --api-key; "
        "`wanspec coordinator key NAME` makes one where the coordinator is"
    )
