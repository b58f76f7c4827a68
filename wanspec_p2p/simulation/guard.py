"""Keeps simulated code away from the world: our own code that asks a real clock, or anybody who starts a thread, a
socket or a process, learns at once that this run would not be the same twice.

Clocks are refused to our packages alone: asyncio, structlog and other libraries may look at one for reasons of their
own. `wanspec_p2p.clock` is the only module of ours that may import `time`, so patching the module's functions reaches
every caller; `datetime.now` cannot be patched, and nothing the simulator runs calls it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["guarded"]

OURS = frozenset({"wanspec_p2p", "node", "coordinator"})
_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")
_DOORS = ((threading.Thread, "start"), (socket.socket, "__init__"), (subprocess.Popen, "__init__"))

Fault = Callable[[str], Exception]
"""What was done, to the exception that says why it must not be."""


@contextmanager
def guarded(fault: Fault) -> Iterator[None]:
    """While the body runs, this thread cannot leave virtual time; other threads go on as they were."""
    owner = threading.get_ident()

    def refuse(name: str) -> None:
        if threading.get_ident() == owner:
            raise fault(name)

    with ExitStack() as undo:
        for name in _CLOCKS:
            _replace(undo, time, name, _clock(name, getattr(time, name), refuse))
        for place, name in _DOORS:
            _replace(undo, place, name, _door(f"{place.__name__}.{name}", getattr(place, name), refuse))
        yield


def _clock(name: str, real: Callable[..., Any], refuse: Callable[[str], None]) -> Callable[..., Any]:
    def clock(*args: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] in OURS:
            refuse(f"time.{name}, called by {caller},")
        return real(*args)

    return clock


def _door(name: str, real: Callable[..., Any], refuse: Callable[[str], None]) -> Callable[..., Any]:
    def door(*args: Any, **kwargs: Any) -> Any:
        refuse(name)
        return real(*args, **kwargs)

    return door


def _replace(undo: ExitStack, place: Any, name: str, stand_in: Callable[..., Any]) -> None:
    undo.callback(setattr, place, name, getattr(place, name))
    setattr(place, name, stand_in)
