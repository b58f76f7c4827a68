from __future__ import annotations

import pytest

from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.swarm_kill import play_swarm


def test_every_answer_outlives_the_nodes() -> None:
    killed = play_swarm(1, share=0.5, nodes=8, answers=3, tokens=32, rtt=0.03, kill_at=0.3)
    assert (killed.answers, killed.identical, killed.tokens, killed.lost) == (3, 3, 96, 4)
    assert 0 < killed.lost_drafting <= 4 and 0.3 < killed.seconds < 96 * 0.030 * 2


def test_with_nobody_killed_nobody_is_lost() -> None:
    found = play_swarm(1, share=0.0, nodes=6, answers=2, tokens=16, rtt=0.0, kill_at=0.1)
    assert (found.identical, found.lost, found.lost_drafting) == (2, 0, 0)


def test_another_text_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    assert play_swarm(1, share=0.0, nodes=2, answers=2, tokens=8, rtt=0.0, kill_at=0.1).identical == 0
