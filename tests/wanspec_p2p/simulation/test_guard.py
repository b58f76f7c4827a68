from __future__ import annotations

import _thread
import asyncio
import multiprocessing
import os
import random
import secrets
import socket
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable

import numpy as np
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


def ours(read: types.FunctionType) -> Callable[[], object]:
    """The same function, as if it stood in a module of ours."""
    return types.FunctionType(read.__code__, {"__name__": "node.daemon", "time": time})


CLOCKS = {
    "clock_gettime": lambda: time.clock_gettime(time.CLOCK_REALTIME),
    "clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "process_time": lambda: time.process_time(),
    "process_time_ns": lambda: time.process_time_ns(),
    "thread_time": lambda: time.thread_time(),
    "thread_time_ns": lambda: time.thread_time_ns(),
}


@pytest.mark.parametrize("name", [name for name in CLOCKS if hasattr(time, name)])
def test_no_other_clock_is_open_to_our_code_either(name: str) -> None:
    async def main() -> None:
        CLOCKS[name]()  # somebody else's
        ours(CLOCKS[name])()

    with pytest.raises(VirtualTimeError, match=rf"time\.{name}, called by node\.daemon, at 0\.000000 s"):
        run_in_virtual_time(main())


def nothing() -> None:
    pass


DOORS: dict[str, Callable[[], object]] = {
    "_thread.start_new_thread": lambda: _thread.start_new_thread(nothing, ()),
    "os.fork": lambda: os.fork() or os._exit(0),
    "os.forkpty": lambda: os.forkpty()[0] or os._exit(0),
    "os.system": lambda: os.system("true"),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "os.posix_spawnp": lambda: os.posix_spawnp("true", ["true"], {}),
    "os.spawnv": lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"]),
    "os.execl": lambda: os.execl("/nowhere/true", "true"),
    "os.execve": lambda: os.execve("/nowhere/true", ["true"], {}),
    "os.urandom": lambda: os.urandom(8),
    "os.getrandom": lambda: os.getrandom(8),
    "random.SystemRandom.random": lambda: random.SystemRandom().random(),
    "random.SystemRandom.randint": lambda: random.SystemRandom().randint(0, 9),
    "secrets.token_hex": lambda: secrets.token_hex(8),
    "secrets.randbelow": lambda: secrets.randbelow(8),
    "secrets.randbits": lambda: secrets.randbits(8),
    "secrets.choice": lambda: secrets.choice("ab"),
    "uuid.uuid1": lambda: uuid.uuid1(),
    "uuid.uuid4": lambda: uuid.uuid4(),
    "multiprocessing.Process": lambda: multiprocessing.get_context("spawn").Process(target=nothing).start(),
    "socket.getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "socket.gethostbyname": lambda: socket.gethostbyname("localhost"),
}


@pytest.mark.parametrize(
    "name", [name for name in DOORS if hasattr(sys.modules[name.split(".")[0]], name.split(".")[1])]
)
def test_nobody_starts_anything_or_asks_for_chance(name: str) -> None:
    async def main() -> None:
        DOORS[name]()

    with pytest.raises(VirtualTimeError, match=r"at 0\.000000 s leaves virtual time"):
        run_in_virtual_time(main())


def test_numpy_makes_generators_that_are_told_their_key() -> None:
    async def main() -> float:
        return float(np.random.Generator(np.random.Philox(key=1)).random())

    assert run_in_virtual_time(main()) == run_in_virtual_time(main())


def test_what_somebody_took_by_name_meanwhile_is_open_again_afterwards() -> None:
    async def main() -> Callable[[int], bytes]:
        return os.urandom

    assert len(run_in_virtual_time(main())(8)) == 8


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
    before = time.time, time.sleep, threading.Thread.start, os.urandom, _thread.start_new_thread

    async def main() -> None:
        assert time.time is not before[0]
        assert os.urandom is not before[3]

    run_in_virtual_time(main())
    assert (time.time, time.sleep, threading.Thread.start, os.urandom, _thread.start_new_thread) == before
    assert len(secrets.token_bytes(8)) == 8
