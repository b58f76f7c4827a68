from __future__ import annotations

import pytest

from wanspec_p2p.cli.bench.failover_outcome import Outcome, Victim, markdown, victim_of
from wanspec_p2p.errors import ConfigError


def test_a_row_for_each_process_and_signal() -> None:
    coordinator, target = Outcome(Victim.COORDINATOR, "SIGKILL"), Outcome(Victim.TARGET, "SIGSTOP")
    for wait, back in ((1.0, 0.5), (3.0, 2.5), (2.0, 1.5)):
        coordinator.count(True, wait, back)
    target.count(True, 0.25, None)
    target.count(False, 0.75, None)
    assert markdown([coordinator, target]).splitlines()[2:] == [
        "| coordinator | SIGKILL | 3 | yes | 2.00 (1.00–3.00) | 1.50 (0.50–2.50) |",
        "| target | SIGSTOP | 2 | no: 1 answer differs | 0.50 (0.25–0.75) | - |",
    ]


def test_a_victim_that_is_none_is_named() -> None:
    assert victim_of("node") is Victim.NODE
    with pytest.raises(ConfigError, match="'drafter' is none of: node, coordinator, target"):
        victim_of("drafter")
