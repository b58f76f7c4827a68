"""Cells in small: every process a real one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wanspec_p2p.cli import testbed_run
from wanspec_p2p.cli.processes import ChildDied, wanspec_command
from wanspec_p2p.cli.testbed_run import observe
from wanspec_p2p.errors import EngineError
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.reference import Setting, tree_alone
from wanspec_p2p.simulation.wan import Wan

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("nothing_left")]

TINY = Setting(
    drafters=2, wan=Wan(rtt=0.004, jitter=0.2), local=False, tokens=16, warm_up=8, answers=2, verify=0.02, draft=0.002
)


def test_answers_are_the_targets_own_and_drafts_from_afar_are_in_them() -> None:
    told: list[int] = []
    found = observe(TINY, 3, told.append)  # raises where a token is not the target's
    assert told == [0, 1, 2]
    assert found.figures.tokens == 32 and found.figures.local_passes == 0 < found.figures.remote_passes
    assert found.figures.rounds < 32  # and nobody but the nodes drafted
    assert 0.0 < found.figures.seconds < found.seconds
    assert set(found.late) == {"target", "local", "node"} and found.late["local"] == 0.0 < found.late["target"]
    assert found.code.verify > 0.0 == found.code.draft and found.code.node > 0.0
    assert set(found.cores) == {"target", "node-1", "node-2", "coordinator", "relay", "machine"}
    assert all(cores >= 0.0 for cores in found.cores.values())


def test_a_tree_of_the_targets_own_has_so_many_passes_a_round() -> None:
    tree = replace(tree_alone(2, TINY), warm_up=0, answers=1)
    observed = observe(tree, 3, lambda done: None)
    found, code = observed.figures, observed.code
    assert code.verify > 0.0 and code.draft > 0.0 == code.node
    assert found.rounds < 16 and found.remote_passes == 0
    assert found.local_passes in (2 * found.rounds, 2 * (found.rounds - 1))  # none before a last token


def test_a_text_that_is_not_the_targets_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text, "continuation", lambda self, prompt, count: [0] * count)
    with pytest.raises(EngineError, match=r"not the target's own: Setting\("):
        observe(replace(TINY, drafters=1, answers=1), 0, lambda done: None)


def test_a_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    command = wanspec_command("testbed", "--no-such-flag")
    monkeypatch.setattr(testbed_run, "peer_command", lambda *args, **kwargs: command)
    with pytest.raises(ChildDied, match="the target ended with status 2"):
        observe(TINY, 0, lambda done: None)
