from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.hash_seeds import printed_under
from wanspec_p2p.simulation.loop import SimulatedClock, VirtualTimeError, VirtualTimeLoop, run_in_virtual_time

ROOT = Path(__file__).parents[3]


def test_time_jumps_to_the_next_timer_and_no_further() -> None:
    async def main() -> list[tuple[float, float]]:
        clock, seen = SimulatedClock(), []

        async def note(after: float) -> None:
            await asyncio.sleep(after)
            seen.append((after, clock.monotonic()))

        await asyncio.gather(note(86_400.0), note(0.1), note(60.0))
        assert clock.wall() - clock.monotonic() == 1_800_000_000.0
        return seen

    assert run_in_virtual_time(main()) == [(0.1, 0.1), (60.0, 60.0), (86_400.0, 86_400.0)]


def test_who_waits_for_the_moment_to_settle_comes_after_all_that_happens_at_it() -> None:
    async def main() -> list[str]:
        loop, order = asyncio.get_running_loop(), []
        assert isinstance(loop, VirtualTimeLoop)

        async def last(name: str) -> None:
            await asyncio.sleep(1.0)
            await loop.settled()
            order.append(f"{name} at {loop.time()}")
            loop.call_soon(order.append, f"what {name} set off")

        async def chain() -> None:
            await asyncio.sleep(1.0)
            for number in range(20):
                await asyncio.sleep(0)
                loop.call_at(1.0, order.append, f"timer {number}")

        given_up = asyncio.create_task(last("nobody"))
        waiting = [asyncio.create_task(last(name)) for name in "ab"]
        await asyncio.gather(chain(), asyncio.sleep(1.0))
        given_up.cancel()
        await asyncio.gather(*waiting)
        await asyncio.sleep(1.0)
        return order

    timers = [f"timer {number}" for number in range(20)]
    assert run_in_virtual_time(main()) == [*timers, "a at 1.0", "what a set off", "b at 1.0", "what b set off"]


def test_what_is_ready_runs_first_in_first_out_and_equal_timers_in_the_order_they_were_set() -> None:
    async def main() -> list[str]:
        loop, order = asyncio.get_running_loop(), []
        for number in range(50):
            loop.call_at(1.0, order.append, f"timer {number}")
        for number in range(50):
            loop.call_soon(order.append, f"soon {number}")
        await asyncio.sleep(2.0)
        return order

    assert run_in_virtual_time(main()) == [f"soon {n}" for n in range(50)] + [f"timer {n}" for n in range(50)]


def test_cancelled_timers_neither_run_nor_pile_up() -> None:
    async def main() -> tuple[list[int], int]:
        loop, ran = asyncio.get_running_loop(), []
        assert isinstance(loop, VirtualTimeLoop)
        loop.call_at(7.0, ran.append, 7)
        loop.call_at(9.0, ran.append, 9).cancel()
        for _ in range(10_000):
            async with asyncio.timeout(3600):
                await asyncio.sleep(0)
        piled_up = len(loop._timers)
        await asyncio.sleep(10.0)
        return ran, piled_up

    ran, piled_up = run_in_virtual_time(main())
    assert ran == [7]
    assert piled_up < 1000


@pytest.mark.parametrize("when", [float("nan"), float("inf")])
def test_a_timer_needs_a_time(when: float) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="needs a time"):
            asyncio.get_running_loop().call_at(when, print)

    run_in_virtual_time(main())


def test_a_deadlock_names_who_waits() -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.Event().wait(), name="the one that waits")
        await task

    with pytest.raises(VirtualTimeError, match=r"deadlock at 0\.0+ s.*the one that waits \(Event\.wait\)"):
        run_in_virtual_time(main())


def test_tasks_that_wake_each_other_without_end_are_an_error() -> None:
    async def main() -> None:
        await asyncio.sleep(2.0)
        spinning = asyncio.create_task(spin(), name="the one that spins")
        await spinning

    async def spin() -> None:
        while True:  # noqa: ASYNC110  # the mistake itself
            await asyncio.sleep(0)

    with pytest.raises(VirtualTimeError, match=r"stands still at 2\.0+ s.*the one that spins"):
        run_in_virtual_time(main())


def test_a_task_left_behind_is_an_error() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(99), name="the one left behind"))

    with pytest.raises(VirtualTimeError, match=r"left behind: the one left behind \(sleep\)"):
        run_in_virtual_time(main())


# Ways out of virtual time ---------------------------------------------------------------------------------------------


async def _in_thread() -> None:
    await asyncio.to_thread(len, "")


async def _in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, len, "")


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _serve() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def _resolve() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _read() -> None:
    asyncio.get_running_loop().add_reader(0, print)


async def _process() -> None:
    await asyncio.create_subprocess_exec(sys.executable, "-V")


async def _blocking_process() -> None:
    subprocess.run([sys.executable, "-V"], check=True)  # noqa: ASYNC221  # never gets so far


async def _signals() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)


async def _thread() -> None:
    threading.Thread(target=print).start()


async def _socket() -> None:
    socket.socket().close()


WAYS_OUT = [
    *(_in_thread, _in_executor, _connect, _serve, _resolve, _read, _process, _blocking_process, _signals),
    *(_thread, _socket),
]


@pytest.mark.parametrize("way", WAYS_OUT, ids=lambda way: way.__name__)
def test_every_way_out_of_virtual_time_is_closed(way: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.sleep(3.0)
        await way()

    with pytest.raises(VirtualTimeError, match=r"at 3\.000000 s leaves virtual time"):
        run_in_virtual_time(main())


def test_a_fault_ends_the_run_even_where_it_is_caught() -> None:
    async def main() -> None:
        try:
            await _in_thread()
        except Exception:
            await asyncio.sleep(1.0)

    with pytest.raises(VirtualTimeError, match="run_in_executor"):
        run_in_virtual_time(main())


def test_another_thread_cannot_call_in() -> None:
    loop, caught = VirtualTimeLoop(), []

    def call() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except VirtualTimeError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    loop.call_soon_threadsafe(loop.stop)  # of our own it may
    with pytest.raises(VirtualTimeError, match="another thread"):
        loop.run_forever()
    loop.close()
    assert len(caught) == 1


# The same run twice ---------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, random
from wanspec_p2p.simulation.loop import SimulatedClock, run_in_virtual_time
from wanspec_p2p.simulation.trace import Trace

async def main():
    trace, rng = Trace(SimulatedClock(), lambda line: print(line.decode(), end="")), random.Random("seed")
    queue = asyncio.Queue(3)

    async def give(name):
        for number in range(20):
            await asyncio.sleep(rng.choice((0.0, 0.5, 1.0)))
            async with asyncio.timeout(100):
                await queue.put((name, number))

    async def take():
        for _ in range(100):
            name, number = await queue.get()
            trace.note("taken", name=name, number=number)

    await asyncio.gather(take(), *(give(f"giver {n}") for n in range(5)))

run_in_virtual_time(main())
"""


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    outputs = printed_under(PROGRAM, "1", "4242")
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 100
