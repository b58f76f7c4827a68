from __future__ import annotations

import asyncio
import threading
import time

import pytest

from wanspec_p2p.clock import SystemClock
from wanspec_p2p.simulation.guard import guarded
from wanspec_p2p.simulation.loop import VirtualTimeError, run_in_virtual_time


@pytest.mark.parametrize("read", [SystemClock().monotonic, SystemClock().wall], ids=["monotonic", "wall"])
def test_our_code_may_not_ask_a_real_clock(read: object) -> None:
    async def main() -> None:
        read()  # type: ignore[operator]  # a method

    with pytest.raises(VirtualTimeError, match=r"time\.\w+, called by wanspec_p2p\.clock, at 0\.000000 s"):
        run_in_virtual_time(main())


def test_others_may() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return time.monotonic()

    before = time.monotonic()
    assert before <= run_in_virtual_time(main()) <= time.monotonic()


def test_other_threads_go_on_as_they_were() -> None:
    begin, done, read = threading.Event(), threading.Event(), []

    def watch() -> None:
        begin.wait(10)
        read.append(SystemClock().monotonic())
        done.set()

    thread = threading.Thread(target=watch)
    thread.start()

    def fault(what: str) -> Exception:
        return AssertionError(what)

    with guarded(fault):
        begin.set()
        assert done.wait(10)
    thread.join(10)
    assert len(read) == 1


def test_everything_is_as_before_afterwards() -> None:
    before = time.time, time.sleep, threading.Thread.start

    async def main() -> None:
        assert time.time is not before[0]

    run_in_virtual_time(main())
    assert (time.time, time.sleep, threading.Thread.start) == before
