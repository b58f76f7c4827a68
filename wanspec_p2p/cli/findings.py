"""What `wanspec doctor` finds: one line each, and where something is wrong also what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wanspec_p2p.errors import WanspecError

__all__ = ["Finding", "guarded"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    detail: str


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What is wrong is a finding, not the end of the examination."""
    try:
        return look()
    except (WanspecError, OSError) as error:
        return Finding(check, False, str(error))
