from __future__ import annotations

from pathlib import Path
from typing import Any

from wanspec_p2p.models.distill.job import Job
from wanspec_p2p.models.distill.plan import Plan
from wanspec_p2p.models.distill.torch_training import Schedule


def test_drafters_of_different_shapes_lie_in_folders_of_their_own() -> None:
    nothing: Any = None
    jobs = [
        Job(
            source=nothing,
            plan=Plan(layers=layers, tokens=1, schedule=Schedule(), width=width),
            out=Path("out"),
            placement=nothing,
            catalog=nothing,
            command="",
            machine="",
        )
        for layers, width in (((0, 1), None), ((0, 2), None), ((0, 1), 64))
    ]
    folders = [job.folder for job in jobs]
    assert len(set(folders)) == 3 and {folder.parent for folder in folders} == {Path("out")}
