"""What one run of `wanspec distill` is given, and what it says in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.distill.judge import Judgement
from wanspec_p2p.models.distill.plan import Plan
from wanspec_p2p.models.distill.torch_corpus import Source
from wanspec_p2p.models.distill.torch_training import Reading
from wanspec_p2p.models.torch_device import Placement

__all__ = ["Job", "Report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the command.

    Attributes:
        command, machine: for the model card.
        prompts: brought by the operator, for the target to answer.
        unseen: (category, prompt) to judge drafters on; none: dialogues held back.
    """

    source: Source
    plan: Plan
    out: Path
    placement: Placement
    catalog: Catalog
    command: str
    machine: str
    prompts: Sequence[str] = ()
    unseen: Sequence[tuple[str, str]] = ()

    @property
    def folder(self) -> Path:
        """Of this drafter; `out` may hold others, which share the target's text."""
        return self.out / self.plan.name


class Report(msgspec.Struct, frozen=True):
    """What report.json holds."""

    target: str
    target_digest: str
    plan: Plan
    generated: int  # tokens the target wrote
    brought: int  # prompts it was given to answer
    dialogues: int
    trained: int  # tokens trained on, every epoch counted
    curve: tuple[Reading, ...]  # where agreement was measured
    judgement: Judgement
    command: str
    machine: str
    drafter: str  # the directory
