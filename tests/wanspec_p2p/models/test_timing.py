from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.models.timing import TIMED_PREFIX, median_seconds
from wanspec_p2p.types import Segment


@pytest.mark.parametrize("length", [1, 10, TIMED_PREFIX + 50])
async def test_models_and_widths_are_timed_in_turn(length: int) -> None:
    order: list[str] = []

    def noted(name: str) -> ScriptedModel:
        async def before(batch: Sequence[Segment]) -> None:
            order.append(f"{name} {batch[0].rows}")

        return ScriptedModel(1, before_forward=before)

    drafter, target = noted("drafter"), noted("target")
    seconds = await median_seconds([(drafter, (1, 8)), (target, (1, 4, 16))], [7] * length, passes=3)
    turn = ["drafter 1", "drafter 8", "target 1", "target 4", "target 16"]
    assert order == ["drafter 1", "target 1", *turn * 3]
    assert list(map(len, seconds)) == [2, 3] and all(second > 0 for own in seconds for second in own)
    assert drafter.caches == target.caches == {}
    assert len(drafter.batches[0][0].tokens) == min(length, TIMED_PREFIX)
