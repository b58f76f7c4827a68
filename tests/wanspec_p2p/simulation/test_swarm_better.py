from __future__ import annotations

import pytest

from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.swarm_better import play_better


def test_a_target_finds_nodes_that_are_better_than_those_it_has() -> None:
    minutes = play_better(3, minutes=5, tokens=48, far=0.08, near=0.005)
    assert len(minutes) == 5
    assert minutes[-1] < 0.75 * minutes[0]


def test_another_text_ends_the_play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    with pytest.raises(RuntimeError, match="not the target's own: seed 1"):
        play_better(1, minutes=1, tokens=8, far=0.01, near=0.01)
