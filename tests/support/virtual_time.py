"""Tests in virtual time: hours of time-outs in milliseconds, on the event loop of the simulator."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from wanspec_p2p.simulation.loop import SimulatedClock, VirtualTimeLoop, run_in_virtual_time

__all__ = ["LoopClock", "VirtualTimeLoop", "in_virtual_time"]

P = ParamSpec("P")
LoopClock = SimulatedClock


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a `VirtualTimeLoop`; it may take an hour of virtual time, and leaves no task behind."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(3600):
                await test(*args, **kwargs)

        run_in_virtual_time(bounded())

    return run
