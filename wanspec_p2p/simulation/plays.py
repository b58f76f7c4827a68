"""Many plays of the reference, in processes beside each other.

Plays are independent, and what comes out does not depend on how many processes there are.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeAlias

from wanspec_p2p.simulation.ideal import play_ideal
from wanspec_p2p.simulation.reference import Figures, Setting, play

__all__ = ["Played", "played", "played_as_wanted"]

Played: TypeAlias = Mapping[Setting, Sequence[Figures]]
"""By setting, figures by seed."""
Task: TypeAlias = tuple[Setting, int]
Result: TypeAlias = tuple[Setting, int, Figures]
Players: TypeAlias = Callable[[Sequence[Task]], Generator[Result, None, None]]


def played(
    settings: Sequence[Setting],
    seeds: int,
    *,
    processes: int,
    progress: Callable[[int, int], None],
    first: int = 0,
) -> Played:
    """Play each setting with so many seeds, from `first` on.

    Args:
        processes: 1 plays here, in this one. Needs the main thread otherwise.
        progress: told (done, total).
    """
    tasks = [(setting, seed) for setting in settings for seed in range(first, first + seeds)]
    with _players(processes, ideal=False) as play:
        found = _found(play, tasks, progress)
    return {setting: [found[setting, seed] for seed in range(first, first + seeds)] for setting in settings}


def played_as_wanted(
    wanted: Callable[[Played], Mapping[Setting, int]],
    *,
    processes: int,
    progress: Callable[[int, int, int], None],
    ideal: bool = False,
) -> Played:
    """Play what `wanted` wants, given what has been played, until it wants nothing more.

    Args:
        wanted: settings, and with how many seeds from 0 on each is to have been played then.
        progress: told (step, done, total), the last two of this step.
        ideal: calculate what ideal drafters would reach instead of playing the shipped code.
    """
    results: dict[Setting, list[Figures]] = {}
    step = 0
    with _players(processes, ideal) as play:
        while tasks := _missing(wanted(results), results):
            step += 1
            found = _found(play, tasks, functools.partial(progress, step))
            for setting, seed in tasks:
                results.setdefault(setting, []).append(found[setting, seed])
    return results


def _missing(asked: Mapping[Setting, int], results: Played) -> list[Task]:
    return [(setting, seed) for setting, n in asked.items() for seed in range(len(results.get(setting, ())), n)]


def _found(play: Players, tasks: Sequence[Task], progress: Callable[[int, int], None]) -> dict[Task, Figures]:
    found: dict[Task, Figures] = {}
    with contextlib.closing(play(tasks)) as plays:
        for setting, seed, figures in plays:
            found[setting, seed] = figures
            progress(len(found), len(tasks))
    return found


@contextlib.contextmanager
def _players(processes: int, ideal: bool) -> Iterator[Players]:
    """What plays tasks, and gives their results as they end."""
    if processes == 1:
        yield lambda tasks: (_task(*task, ideal) for task in tasks)
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def play(tasks: Sequence[Task]) -> Generator[Result, None, None]:
        with _uninterruptible():
            under_way: set[Future[Result]] = {pool.submit(_task, *task, ideal) for task in tasks}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()

    try:
        yield play
    finally:
        pool.shutdown(cancel_futures=True)  # the plays under way take seconds at most


def _end_with_parent() -> None:
    """A process of a pool whose owner was killed would wait for work for good."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with the parent", daemon=True).start()


def _task(setting: Setting, seed: int, ideal: bool) -> Result:
    return setting, seed, (play_ideal if ideal else play)(setting, seed)


@contextlib.contextmanager
def _uninterruptible() -> Iterator[None]:
    """Processes started meanwhile are deaf to Ctrl-C: only we end them, so that nobody prints a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
