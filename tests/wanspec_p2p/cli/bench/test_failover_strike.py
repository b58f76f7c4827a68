from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.cli.bench.failover_network import StruckNetwork
from wanspec_p2p.cli.bench.failover_outcome import Victim
from wanspec_p2p.cli.bench.failover_strike import STOPPED_SECONDS, Strike


class Process:
    """Ends when it is killed."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._ended = asyncio.Event()

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self._ended.set()

    async def wait(self) -> None:
        await self._ended.wait()


class Network:
    """A coordinator, two targets, of which the second answers, and a node; whoever comes back is registered after four
    seconds.
    """

    def __init__(self) -> None:
        self.processes = {name: Process() for name in ("coordinator", "target-1", "target-2", "node")}
        children = {name: SimpleNamespace(process=process) for name, process in self.processes.items()}
        self.coordinator, self.targets, self.nodes = children["coordinator"], children, children
        self.restarts = 0
        self.cluster = self.client = self
        self.clock = LoopClock()

    async def drafting(self, client: object) -> str:
        return "node"

    async def state(self) -> dict[str, Any]:
        return {"targets": [{"name": "target-1", "answers": 0}, {"name": "target-2", "answers": 1}]}

    async def start_coordinator(self) -> None:
        self.restarts += 1

    async def complete(self) -> bool:
        raise NotImplementedError("only handed on")

    async def until(self, holds: object) -> None:
        assert holds == self.complete
        await asyncio.sleep(4.0)

    async def struck(self, victim: Victim, number: signal.Signals) -> Strike:
        strike = Strike(cast(StruckNetwork, self), victim, 5, number)
        await strike.choose()
        assert not strike.done
        strike.strike()
        assert strike.done
        await strike.end()
        return strike


@pytest.mark.parametrize(("victim", "name"), [(Victim.NODE, "node"), (Victim.TARGET, "target-2")])
@in_virtual_time
async def test_who_has_part_in_the_answer_is_struck_and_not_replaced(victim: Victim, name: str) -> None:
    for number, sent in ((signal.SIGKILL, [signal.SIGKILL]), (signal.SIGSTOP, [signal.SIGSTOP, signal.SIGCONT])):
        network = Network()
        strike = await network.struck(victim, number)
        assert {who: process.signals for who, process in network.processes.items() if process.signals} == {name: sent}
        assert (strike.back, network.restarts) == (None, 0)


@in_virtual_time
async def test_a_coordinator_that_was_killed_is_started_again_and_its_return_is_timed() -> None:
    network = Network()
    strike = await network.struck(Victim.COORDINATOR, signal.SIGKILL)
    assert (strike.back, network.restarts) == (4.0, 1)


@in_virtual_time
async def test_a_coordinator_that_was_stopped_wakes_up_of_itself() -> None:
    network = Network()
    strike = await network.struck(Victim.COORDINATOR, signal.SIGSTOP)
    assert network.processes["coordinator"].signals[:2] == [signal.SIGSTOP, signal.SIGCONT]
    assert (strike.back, network.restarts) == (None, 0)
    assert network.clock.monotonic() == STOPPED_SECONDS


async def test_what_was_never_struck_has_no_end() -> None:
    network = Network()
    await Strike(cast(StruckNetwork, network), Victim.NODE, 5, signal.SIGKILL).end()
    assert not any(process.signals for process in network.processes.values())
