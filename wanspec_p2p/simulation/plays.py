"""Many plays of the reference, in processes beside each other.

Plays are independent, and what comes out does not depend on how many processes there are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeAlias

from wanspec_p2p.simulation.ideal import play_ideal
from wanspec_p2p.simulation.reference import Figures, Setting, play

__all__ = ["Played", "played"]

Played: TypeAlias = Mapping[Setting, Sequence[Figures]]
"""By setting, figures by seed."""


def played(
    settings: Sequence[Setting],
    seeds: int,
    *,
    processes: int,
    progress: Callable[[int, int], None],
    first: int = 0,
    ideal: bool = False,
) -> Played:
    """Play each setting with so many seeds, from `first` on.

    Args:
        processes: 1 plays here, in this one. Needs the main thread otherwise.
        progress: told (done, total).
        ideal: calculate what ideal drafters would reach instead of playing the shipped code.
    """
    tasks = [(setting, seed) for setting in settings for seed in range(first, first + seeds)]
    found: dict[tuple[Setting, int], Figures] = {}
    with contextlib.closing(_plays(tasks, processes, ideal)) as plays:
        for setting, seed, figures in plays:
            found[setting, seed] = figures
            progress(len(found), len(tasks))
    return {setting: [found[setting, seed] for seed in range(first, first + seeds)] for setting in settings}


Result: TypeAlias = tuple[Setting, int, Figures]


def _plays(tasks: Sequence[tuple[Setting, int]], processes: int, ideal: bool) -> Generator[Result, None, None]:
    """As they end."""
    if processes == 1:
        for setting, seed in tasks:
            yield _task(setting, seed, ideal)
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        with _uninterruptible():
            under_way: set[Future[Result]] = {pool.submit(_task, *task, ideal) for task in tasks}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # the plays under way take seconds at most


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
