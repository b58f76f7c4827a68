from __future__ import annotations

from tests.support.hash_seeds import printed_under
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_hour import SwarmHour, play_swarm

SMALL = SwarmHour(
    nodes=20, targets=2, seconds=240.0, churn=Churn(stay=60.0, away=20.0, polite=0.4, silent=0.5), answers=6.0, tokens=8
)


def test_a_small_network_lives_a_few_minutes_and_leaves_nothing_behind() -> None:
    gone: list[tuple[int, int]] = []
    lines: list[bytes] = []
    report = play_swarm(SMALL, 1, progress=lambda done, of: gone.append((done, of)), write=lines.append)
    assert report.flawless
    assert report.asked > 10 and report.faults == {} and report.answers.count == report.exact
    assert (report.ghosts, report.missing, report.tasks_left, report.links_left) == (0, 0, 0, 0)
    assert report.churn.left > 0 and report.churn.died > report.churn.silent > 0
    assert report.matches >= 4 and report.replaced
    assert report.leases_issued == report.leases_ended + report.leases_left
    assert report.received["heartbeat"] > 1000
    assert gone == [(60, 240), (120, 240), (180, 240), (240, 240)]
    assert sum(b'"answered"' in line for line in lines) == report.asked


def test_what_is_lost_is_replaced_soon_and_silence_is_told_from_death_by_waiting() -> None:
    """Seconds: a broken link is known at once, a silent one after its silence."""
    replaced = play_swarm(SMALL, 2).replaced
    assert replaced.keys() <= {"left", "died", "silent"}
    assert all(waits.longest is not None and waits.longest < 30.0 for waits in replaced.values())


PROGRAM = """
from tests.wanspec_p2p.simulation.test_swarm_hour import SMALL, play_swarm
print(play_swarm(SMALL, 3))
"""


def test_the_same_seed_gives_the_same_report_whatever_the_hash_seed() -> None:
    one, other = printed_under(PROGRAM, "1", "4242")
    assert one == other
    assert b"trace=" in one
