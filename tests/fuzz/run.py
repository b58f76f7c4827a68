"""The runs: what is thrown, how often somebody honest is asked after, and what counts as a find.

A find is anything but a `RemoteProtocolError` and its kin: another exception anywhere, an error in a log that speaks of
a bug or shows a traceback, a close with INTERNAL_ERROR, somebody honest unserved, a task or a ghost left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from tests.fuzz.frames import Frames, Lore
from tests.fuzz.worlds import WORLDS
from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.protocol import codec as codecs
from wanspec_p2p.protocol.codec import Codec
from wanspec_p2p.protocol.common_messages import CommonMessage
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.handshake import Begin, Dialler, Handshake, Listener, Send
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import TargetMessage
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.types import Role

__all__ = ["KINDS", "Find", "Outcome", "chunk"]

ASKED_EVERY = 50
"""Frames between two looks at somebody honest."""
KEPT = 12
"""Frames shown with a find: the cause is rarely older."""
CODECS: list[tuple[Codec[Any], tuple[Any, ...]]] = [
    (codecs.AT_COORDINATOR_FROM_NODE, (NodeMessage,)),
    (codecs.AT_COORDINATOR_FROM_TARGET, (TargetMessage,)),
    (codecs.AT_NODE_FROM_COORDINATOR, (CoordinatorToNode,)),
    (codecs.AT_TARGET_FROM_COORDINATOR, (CoordinatorToTarget,)),
    (codecs.AT_TARGET_FROM_NODE, (CommonMessage, NodeToTarget)),
    (codecs.AT_NODE_FROM_TARGET, (CommonMessage, TargetToNode)),
]
KINDS = ("codecs", "handshake", *WORLDS)


class Find(Exception):
    """What was found, and the frames that led to it."""


@dataclass
class Outcome:
    """Attributes:
    answers: how hostile frames or links ended: words of a codec's refusal, or close codes.
    """

    inputs: int = 0
    answers: Counter[str] = field(default_factory=Counter)


def chunk(kind: str, seed: int, number: int, inputs: int) -> Outcome:
    """So many inputs, the same ones every time; keys, and what follows from them, are new.

    Raises:
        Find: with everything needed to see it again.
    """
    rng = random.Random(f"{seed} {kind} {number}")
    recent: deque[str | bytes] = deque(maxlen=KEPT)
    outcome = Outcome(inputs)
    try:
        if kind == "codecs":
            _codecs(rng, inputs, recent, outcome)
        elif kind == "handshake":
            _handshakes(rng, inputs, recent, outcome)
        else:
            with _nothing_amiss():
                run_in_virtual_time(_world(kind, rng, inputs, recent, outcome))
    except Exception as error:
        lines = "\n".join(f"  {frame[:300]!r}" for frame in recent)
        again = f"python -m tests.fuzz --kind {kind} --seed {seed} --first {number} --chunks 1 --size {inputs}"
        raise Find(f"{type(error).__name__}: {error}\nthe frames before it:\n{lines}\nonce more: {again}") from error
    return outcome


def _codecs(rng: random.Random, inputs: int, recent: deque[str | bytes], outcome: Outcome) -> None:
    made = [(codec, Frames(*unions)) for codec, unions in CODECS]
    lore = Lore()
    for _ in range(inputs):
        codec, frames = rng.choice(made)
        recent.append(frame := frames.next(rng, lore))
        try:
            message = codec.decode(frame)
        except RemoteProtocolError as error:
            assert "\n" not in error.reason and len(error.reason) < 512
            outcome.answers[error.code.name] += 1
        else:
            outcome.answers["decoded"] += 1
            if not isinstance(frame, str) or "\\ud" not in frame:
                assert codec.decode(codec.encode(message)) == message


def _handshakes(rng: random.Random, inputs: int, recent: deque[str | bytes], outcome: Outcome) -> None:
    """Both machines in all states: true frames of a partner's, and hostile ones in between."""
    codec, frames, lore = codecs.AT_TARGET_FROM_NODE, Frames(CommonMessage, NodeToTarget), Lore()
    ours, theirs = Identity.generate(), Identity.generate()
    thrown = 0
    while thrown < inputs:
        dialler = Dialler(
            ours, Role.NODE, expect=theirs.peer_id, nonce=rng.randbytes(32), channel_binding=b"", features=("a",)
        )
        listener = Listener(
            theirs, Role.TARGET, roles=frozenset({Role.NODE}), nonce=rng.randbytes(32), channel_binding=b""
        )
        machines: list[Handshake] = [dialler, listener]
        turn, said = 1, [step.message for step in dialler.handle(Begin()) if isinstance(step, Send)]
        while thrown < inputs:
            hostile = rng.random() < 0.4
            if not hostile and not said:
                break
            try:
                if hostile:
                    thrown += 1
                    recent.append(frame := frames.next(rng, lore))
                    steps = rng.choice(machines).handle(codec.decode(frame))
                    outcome.answers["taken"] += 1
                else:
                    steps = machines[turn].handle(said.pop(0))
                    said, turn = [step.message for step in steps if isinstance(step, Send)], 1 - turn
            except RemoteProtocolError as error:
                outcome.answers[error.code.name] += 1
                if not hostile:
                    break


async def _world(kind: str, rng: random.Random, inputs: int, recent: deque[str | bytes], outcome: Outcome) -> None:
    world = WORLDS[kind](rng)
    frames = Frames(*world.frames)
    await world.open()
    for number in range(inputs):
        recent.append(await world.strike(frames))
        if number % ASKED_EVERY == ASKED_EVERY - 1:
            await world.unharmed()
    await world.unharmed()
    await world.close()
    outcome.answers.update(
        {"closed without a code" if code is None else str(code): n for code, n in world.codes.items()}
    )
    assert CloseCode.INTERNAL_ERROR not in world.codes, "a link was closed with INTERNAL_ERROR"
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left: {left}"


@contextlib.contextmanager
def _nothing_amiss() -> Iterator[None]:
    """Nothing in the log says that we are at fault; what peers do is no error of ours."""

    def look(logger: Any, method: str, event: dict[str, Any]) -> Any:
        if event.get("exc_info") or method in ("error", "exception", "critical"):
            faults.append(event)
        raise structlog.DropEvent

    faults: list[dict[str, Any]] = []
    before = structlog.get_config()
    structlog.configure(processors=[look])
    try:
        yield
    except Exception as error:
        if faults:
            raise AssertionError(f"{error!r}; in the log before it: {faults}") from error
        raise
    finally:
        structlog.configure(**before)
    assert not faults, faults
