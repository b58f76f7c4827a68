"""Keeps simulated code away from the world: our own code that asks a real clock, or anybody who starts a thread, a
socket or a process or asks the system for chance, learns at once that this run would not be the same twice.

Clocks are refused to our packages alone: asyncio, structlog and other libraries may look at one for reasons of their
own. Of what the simulator runs only `wanspec_p2p.clock` imports `time`, so patching the module's functions reaches
every caller. `uuid` and all of `secrets` draw from what is refused here. Two may ask the system for chance all the
same, by functions that they had by name before the run: numpy, even for a generator that is told its key, of which it
uses nothing; and `links.peer` for a listener's nonce, which changes frames and nothing that anybody decides.

Not refused, because it cannot be patched or is not called by name:

- `datetime.now` and its like, `time.gmtime` and its like without a time;
- `random.Random()` without a seed and the functions of the module `random`, which C seeds; `SystemRandom.randbytes`,
  which those nonces come from;
- chance and threads that libraries in C take for themselves: keys that `cryptography` makes, pools of numpy;
- functions that anybody else had by name before the run (`from os import urandom`), types of C (`_socket.socket`);
- files, the environment, this host's name, signals, and waiting for a lock or with `select`.

Nothing that the simulator runs is known to do any of it, but that recordings may be read.
"""

from __future__ import annotations

import _thread
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import numpy.random  # noqa: F401  # takes its `randbits` when it is imported, which must be before there are stand-ins

__all__ = ["guarded"]

OURS = frozenset({"wanspec_p2p", "node", "coordinator"})
_CLOCKS = (
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"),
    *("clock_gettime", "clock_gettime_ns", "process_time", "process_time_ns", "thread_time", "thread_time_ns"),
)
_DOORS: tuple[tuple[Any, str], ...] = (
    *((threading.Thread, "start"), (socket.socket, "__init__"), (subprocess.Popen, "__init__")),
    (BaseProcess, "start"),
    *((socket, name) for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")),
    *((uuid, name) for name in ("uuid1", "uuid6")),
    *((_thread, name) for name in ("start_new_thread", "start_new", "start_joinable_thread")),
    *((os, name) for name in ("fork", "forkpty", "system", "posix_spawn", "posix_spawnp", "execv", "execve")),
    *((os, name) for name in ("urandom", "getrandom")),
    *((random.SystemRandom, name) for name in ("random", "getrandbits")),
    *((secrets, name) for name in ("randbits", "token_bytes")),
)
"""Not every system and version has them all. `os.spawnv`, `os.execl` and their like go through these, and so do
`secrets.choice`, `token_hex` and theirs."""

Fault = Callable[[str], Exception]
"""What was done, to the exception that says why it must not be."""


@contextmanager
def guarded(fault: Fault) -> Iterator[None]:
    """While the body runs, this thread cannot leave virtual time; other threads go on as they were."""
    owner: int | None = threading.get_ident()

    def refuse(name: str) -> None:
        if threading.get_ident() == owner:
            raise fault(name)

    def release() -> None:
        """A module that was imported meanwhile may have a stand-in by name, and keep it."""
        nonlocal owner
        owner = None

    with ExitStack() as undo:
        undo.callback(release)
        for name in _CLOCKS:
            if hasattr(time, name):
                _replace(undo, time, name, _clock(name, getattr(time, name), refuse))
        for place, name in _DOORS:
            if hasattr(place, name):
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
