"""When this machine lends itself. Pure: a load and the operator's limits in, a reason to refuse (or none) out.

Wishes about idleness, hours and temperature are further fields of `Load` and `LendingLimits`; nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LendingLimits", "Load"]


@dataclass(frozen=True, slots=True)
class Load:
    """What the node is doing now. `paused` says why nothing new may be taken on; empty where it may."""

    sessions: int = 0
    leases: int = 0
    paused: str = ""


@dataclass(frozen=True, slots=True)
class LendingLimits:
    """What the operator allows.

    `leases` bounds the links to targets, which stay warm without a session; one lease carries any number of sessions.
    `max_prefix` is in tokens.
    """

    slots: int
    max_prefix: int
    leases: int = 64

    def refuse_lease(self, load: Load) -> str | None:
        """Why no further target may be taken on; None when one may."""
        if load.paused:
            return load.paused
        if load.leases >= self.leases:
            return f"already leased to {load.leases} targets"
        if load.sessions >= self.slots:
            return f"all {self.slots} slots are busy"
        return None

    def refuse_session(self, load: Load, prefix: int) -> str | None:
        """Why a session with a prefix of so many tokens may not be opened; None when it may."""
        if load.paused:
            return load.paused
        if load.sessions >= self.slots:
            return f"all {self.slots} slots are busy"
        if prefix > self.max_prefix:
            return f"the prefix has {prefix} tokens, at most {self.max_prefix} are taken"
        return None
