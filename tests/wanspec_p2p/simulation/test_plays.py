from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import psutil
import pytest

from wanspec_p2p.simulation.plays import Played, played, played_as_wanted
from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.simulation.wan import Wan

BASE = Setting(tokens=8, warm_up=0)


def quiet(done: int, total: int) -> None:
    pass


def test_processes_do_not_change_what_comes_out() -> None:
    settings = [BASE, replace(BASE, wan=Wan(0.02))]
    told: list[tuple[int, int]] = []
    before = signal.getsignal(signal.SIGINT)
    here = played(settings, 2, processes=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert played(settings, 2, processes=2, progress=quiet) == here
    assert signal.getsignal(signal.SIGINT) == before
    assert here[BASE][0] != here[BASE][1]
    assert played([BASE], 1, processes=1, progress=quiet, first=1)[BASE] == [here[BASE][1]]


def test_an_interrupt_ends_the_processes() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played([replace(BASE, tokens=n) for n in range(8, 16)], 1, processes=2, progress=interrupt)


def test_no_process_outlives_one_that_is_killed() -> None:
    script = """
import multiprocessing, time
from wanspec_p2p.simulation.plays import played
from wanspec_p2p.simulation.reference import Setting

def told(done, total):
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(60.0)

played([Setting(tokens=8, warm_up=0)], 2, processes=2, progress=told)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        players = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        owner.kill()
    assert len(players) == 2
    _, left = psutil.wait_procs(players, timeout=30.0)
    for player in left:
        player.kill()
    assert left == []


def test_what_goes_wrong_in_a_process_is_told() -> None:
    with pytest.raises(ValueError, match="ranks"):
        played([replace(BASE, ranks=(2.0,))], 2, processes=2, progress=quiet)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_wanted_next_depends_on_what_was_found(processes: int) -> None:
    other, steps = replace(BASE, wan=Wan(0.02)), []

    def wanted(results: Played) -> Mapping[Setting, int]:
        if other in results:
            return {BASE: 2}
        return {other: 1} if BASE in results else {BASE: 2}

    found = played_as_wanted(wanted, processes=processes, progress=lambda *told: steps.append(told))
    assert steps == [(1, 1, 2), (1, 2, 2), (2, 1, 1)]
    settings = played([BASE, other], 2, processes=1, progress=quiet)
    assert found == {BASE: settings[BASE], other: settings[other][:1]}


def test_seeds_that_are_wanted_later_follow_the_others() -> None:
    wants = iter((1, 2, 2))
    found = played_as_wanted(lambda results: {BASE: next(wants)}, processes=1, progress=lambda *told: None)
    assert found[BASE] == played([BASE], 2, processes=1, progress=quiet)[BASE]


def test_an_ideal_is_calculated_instead() -> None:
    both = [
        played_as_wanted(lambda results: {BASE: 1}, processes=1, progress=lambda *told: None, ideal=ideal)[BASE]
        for ideal in (False, True)
    ]
    assert both[0] != both[1]
