from __future__ import annotations

import json
import random
from typing import Any

import pytest

from wanspec_p2p.client.exchange import AnswerBuilder
from wanspec_p2p.client.resuming import LONGEST_WAIT, MAX_TARGET_LOSSES, Resumption
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import (
    InvalidRequest,
    LinkClosed,
    NoTarget,
    Overloaded,
    RemoteProtocolError,
    RequestTimeout,
    TargetLost,
    Unauthenticated,
    UnknownModel,
    Unreachable,
    WanspecError,
)

SEED, FINGERPRINT = "0" * 32, "f" * 64


def event(position: int, *ids: int, **more: Any) -> str:
    progress = {"request": "r", "position": position, "token_ids": ids, "origin": [None] * len(ids)} | more
    return json.dumps({"choices": [{"delta": {"content": "x"}}], "wanspec": progress})


class Bench:
    def __init__(self, *events: str, seconds: float = 30.0) -> None:
        self.clock = ManualClock()
        self.builder = AnswerBuilder()
        for data in events:
            self.builder.feed(data)
        self.resumption = Resumption(self.builder, seconds, self.clock, random.Random(1))

    def wait(self, error: WanspecError) -> float:
        seconds = self.resumption.wait(error)
        self.clock.advance(seconds)
        return seconds


def begun(seconds: float = 30.0) -> Bench:
    return Bench(event(0, 5, 6, seed=SEED, fingerprint=FINGERPRINT), seconds=seconds)


def test_a_broken_answer_is_asked_for_until_there_is_no_hope() -> None:
    bench = begun()
    waits = [bench.wait(LinkClosed("broke off"))]
    with pytest.raises(Unreachable):
        waits.extend(bench.wait(Unreachable("nobody answers")) for _ in range(1000))
    assert 28.0 < sum(waits) < 30.0
    assert max(waits) <= LONGEST_WAIT
    assert waits[0] <= 0.25


def test_the_time_counts_from_the_last_token() -> None:
    bench = begun()
    bench.wait(LinkClosed("broke off"))
    bench.clock.advance(25.0)
    bench.wait(NoTarget("not yet"))
    bench.builder.feed(event(2, 7))
    bench.clock.advance(100.0)
    assert bench.wait(LinkClosed("broke off again")) <= 0.25


@pytest.mark.parametrize("error", [LinkClosed, Unreachable, NoTarget, Overloaded, UnknownModel])
def test_who_comes_back_step_by_step_is_waited_for(error: type[WanspecError]) -> None:
    bench = begun()
    bench.wait(LinkClosed("broke off"))
    assert bench.wait(error("not yet")) >= 0.0
    assert bench.builder.resumed


@pytest.mark.parametrize("error", [InvalidRequest, Unauthenticated, RequestTimeout, RemoteProtocolError])
def test_what_asking_again_does_not_mend_is_said_at_once(error: type[WanspecError]) -> None:
    bench = begun()
    with pytest.raises(error):
        bench.wait(error("no"))


def test_a_prompt_that_may_bring_targets_down_is_not_asked_for_ever() -> None:
    bench = begun()
    for _ in range(MAX_TARGET_LOSSES):
        bench.wait(TargetLost("gone"))
        bench.builder.feed(event(len(bench.builder.token_ids), 7))
    with pytest.raises(TargetLost):
        bench.wait(TargetLost("gone again"))


@pytest.mark.parametrize("error", [Unreachable, NoTarget, Overloaded, UnknownModel, TargetLost])
def test_an_answer_that_never_began_is_an_error_at_once(error: type[WanspecError]) -> None:
    bench = Bench()
    with pytest.raises(error):
        bench.wait(error("no"))


def test_a_connection_that_broke_before_the_first_token_is_tried_again() -> None:
    bench = Bench()
    bench.wait(LinkClosed("broke off"))
    bench.wait(Unreachable("nobody answers"))
    assert bench.resumption.body({"model": "m", "wanspec": {"privacy": "public"}}) == {
        "model": "m",
        "wanspec": {"privacy": "public"},
    }


def test_without_its_seed_an_answer_cannot_be_continued() -> None:
    """An older coordinator says it at the end alone."""
    bench = Bench(event(0, 5))
    with pytest.raises(LinkClosed):
        bench.wait(LinkClosed("broke off"))


def test_no_time_is_no_attempt() -> None:
    with pytest.raises(LinkClosed):
        begun(seconds=0.0).wait(LinkClosed("broke off"))


def test_the_rest_is_asked_for_with_what_decides_it() -> None:
    bench = begun()
    body = bench.resumption.body({"model": "m", "seed": 7, "wanspec": {"privacy": "private"}})
    rest = {"committed": [5, 6], "seed": SEED, "fingerprint": FINGERPRINT}
    assert body == {"model": "m", "seed": 7, "wanspec": {"privacy": "private"} | rest}
    assert bench.resumption.body({"model": "m"})["wanspec"] == rest
