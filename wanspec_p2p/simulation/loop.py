"""An event loop whose time jumps to the next timer when nothing is ready: hours of a network's life in seconds.

The shipped code runs on it unchanged, as long as all it waits for are timers and other tasks. What would wait for the
world outside (a thread, a socket, a process, a signal) is refused with one clear error, since a run that depends on
the world is not the same twice. Order is fixed: what is ready runs first in, first out, and timers of equal time run
in the order they were set, which asyncio's own heap does not promise. `settled` comes after all of them.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from wanspec_p2p.simulation.guard import guarded

__all__ = ["SimulatedClock", "VirtualTimeError", "VirtualTimeLoop", "run_in_virtual_time"]

EPOCH = 1_800_000_000.0
"""Seconds since the Unix epoch at which every simulation begins."""
_NAMED = 20  # tasks that a deadlock names
_COMPACT_FROM = 128  # timers; below that a heap is not worth clearing of cancelled ones
_COLLECT_AFTER = (200_000, 10, 100)  # objects; then every tenth and hundredth time older ones too
_STANDSTILL = 100_000  # rounds without time going on: far more than any exchange between tasks takes

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeError(RuntimeError):
    """The simulated code left virtual time, or waits for what cannot come: a bug in it, or in its scenario."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Starts at time 0. Not for use with real I/O; `run_in_virtual_time` sees to its life."""

    # asyncio's own:
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._compact_at = _COMPACT_FROM
        self._owner = threading.get_ident()
        self._fault: VirtualTimeError | None = None
        self._rounds = 0  # since time went on
        self._last: deque[asyncio.Future[None]] = deque()  # to come when nothing else happens at this instant

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(self._now, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if not -math.inf < when < math.inf:
            raise ValueError(f"a timer needs a time, not {when}")
        if len(self._timers) >= self._compact_at:
            self._compact()
        timer = _Handle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._owner:
            raise self.fault("call_soon_threadsafe from another thread")
        return self.call_soon(callback, *args, context=context)

    async def settled(self) -> None:
        """Until everything else that happens at this instant has happened; of several who wait, one at a time."""
        future: asyncio.Future[None] = self.create_future()
        self._last.append(future)
        await future

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        try:
            return super().run_until_complete(future)
        except VirtualTimeError:
            if isinstance(future, asyncio.Future) and future.done() and not future.cancelled():
                future.exception()  # seen: it is the same fault, or a consequence
            raise

    def close(self) -> None:
        super().close()
        self._timers.clear()

    def fault(self, what: str) -> VirtualTimeError:
        """An error to raise; the run ends with the first one even where the code at fault catches it."""
        error = VirtualTimeError(
            f"{what} at {self._now:.6f} s leaves virtual time: nothing in a simulation may wait for, or ask, the "
            "world outside it"
        )
        self._fault = self._fault or error
        return error

    def _run_once(self) -> None:
        """Rounds of asyncio's loop until it is to stop: what is due, then everything that is ready, but nothing that
        comes of it. Most rounds have one handle only, so they had better cost little beside it.
        """
        ready = self._ready
        while True:
            timers = self._timers
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not ready and not self._stopping:
                if self._last and not (timers and timers[0][0] <= self._now):
                    self._release()
                elif not timers:
                    raise self._deadlock()
                elif timers[0][0] > self._now:
                    self._now, self._rounds = timers[0][0], 0
            self._rounds += 1
            if self._rounds > _STANDSTILL:
                raise self._standstill()
            while timers and timers[0][0] <= self._now:
                ready.append(heapq.heappop(timers)[2])
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            if self._stopping:
                return

    def _release(self) -> None:
        future = self._last.popleft()
        if not future.done():  # cancelled
            future.set_result(None)

    def _compact(self) -> None:
        """Most timers are time-outs that are cancelled: drop those whenever the heap has doubled."""
        self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
        heapq.heapify(self._timers)
        self._compact_at = max(_COMPACT_FROM, 2 * len(self._timers))

    def _deadlock(self) -> VirtualTimeError:
        waiting = _named(asyncio.all_tasks(self))
        return VirtualTimeError(
            f"deadlock at {self._now:.6f} s: nothing is ready and no timer is set; waiting: {waiting or 'nobody'}"
        )

    def _standstill(self) -> VirtualTimeError:
        self._rounds = 0  # whoever clears up after this has time for it
        # A task that has just been woken waits for something that is there already.
        awake = [task for task in asyncio.all_tasks(self) if _awake(task)]
        return VirtualTimeError(
            f"time stands still at {self._now:.6f} s: tasks wake each other, or themselves, without end; "
            f"awake: {_named(awake) or 'none, only callbacks'}"
        )


class _Handle(asyncio.TimerHandle):
    """As asyncio's, but made and cancelled at half the cost: this loop has no debug mode to ask for."""

    __slots__ = ()
    # asyncio's own:
    _callback: Callable[..., object] | None
    _args: Sequence[Any] | None  # type: ignore[assignment]
    _context: Context

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualTimeLoop,
        context: Context | None,
    ) -> None:
        self._when, self._scheduled = when, False
        self._callback, self._args, self._loop = callback, args, loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None


def _awake(task: asyncio.Task[Any]) -> bool:
    waits_for: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)  # asyncio's own
    return waits_for is None or waits_for.done()


def _named(tasks: Collection[asyncio.Task[Any]]) -> str:
    names = sorted(_described(task) for task in tasks)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _described(task: asyncio.Task[Any]) -> str:
    name = getattr(task.get_coro(), "__qualname__", "?")
    return f"{task.get_name()} ({name})"


def _refusal(method: str) -> Callable[..., Any]:
    def refuse(self: VirtualTimeLoop, *args: object, **kwargs: object) -> Any:
        raise self.fault(f"loop.{method}")

    return refuse


for _method in (
    *("run_in_executor", "set_default_executor"),
    *("create_connection", "create_server", "create_datagram_endpoint", "connect_accepted_socket", "start_tls"),
    *("create_unix_connection", "create_unix_server", "getaddrinfo", "getnameinfo", "sendfile"),
    *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto"),
    *("sock_connect", "sock_accept", "sock_sendfile"),
    *("add_reader", "remove_reader", "add_writer", "remove_writer", "connect_read_pipe", "connect_write_pipe"),
    *("subprocess_exec", "subprocess_shell", "add_signal_handler", "remove_signal_handler"),
):
    setattr(VirtualTimeLoop, _method, _refusal(_method))


class SimulatedClock:
    """A `Clock` that shows the running loop's time."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return EPOCH + self.monotonic()


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a loop of its own, with the real clocks, threads and sockets out of reach.

    Raises:
        VirtualTimeError: it left virtual time, came to a deadlock, or left tasks behind.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with guarded(loop.fault), _seldom_collecting():
            return runner.run(_leaving_nothing(main))


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Of the millions of objects a run makes few are in cycles; looking for those took a quarter of its time."""
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _leaving_nothing(main: Coroutine[Any, Any, T]) -> T:
    result = await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        raise VirtualTimeError(f"tasks left behind: {_named(left)}")
    return result
