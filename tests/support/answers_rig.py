"""Answers of a coordinator without the coordinator: targets, requests and tokens by the line."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from coordinator.answer import Answer
from coordinator.answers import Answers
from coordinator.openai_schema import Asked
from coordinator.records import TargetRecord
from tests.support.fake_target import SERVED
from wanspec_p2p.errors import RequestError
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Tokens, Usage
from wanspec_p2p.types import PeerId, Sampling

__all__ = ["USAGE", "Rig", "asked", "failure", "target", "tokens"]

USAGE = Usage(prompt_tokens=1, completion_tokens=99, rounds=1, drafted=0, accepted=0, late=0)


def target(link: int, *, slots: int = 2, queue: int = 0, fingerprint: str = "f" * 64) -> TargetRecord:
    model = msgspec.structs.replace(SERVED, fingerprint=fingerprint)
    return TargetRecord(
        link, PeerId(str(link) * 32), "p", "t", "o", "s", model, ("ws://x",), None, slots, queue, since=0.0, seen=0.0
    )


def asked(
    request: str = "r", model: str = "big", committed: tuple[int, ...] = (), max_tokens: int | None = None
) -> Asked:
    generate = Generate(request, bytes(16), Sampling(), prompt="x", committed=committed, max_tokens=max_tokens)
    return Asked(model, generate, stream=False, include_usage=False, chat=False)


def tokens(position: int, *ids: int, request: str = "r") -> Tokens:
    return Tokens(request, position, ids, "x", (None,) * len(ids))


class Rig:
    """`Answers` with targets that a test loses and hangs, and what is sent to them."""

    def __init__(self, *targets: TargetRecord) -> None:
        self.targets = list(targets)
        self.sent: list[tuple[int, Generate | Cancel]] = []
        self.hung: set[int] = set()
        self.answers = Answers(lambda: self.targets, self.send, stall_seconds=5.0, hung=self.hung.__contains__)

    def send(self, link: int, message: Any) -> None:
        self.sent.append((link, message))

    def lose(self, link: int) -> None:
        self.targets = [target for target in self.targets if target.link != link]
        self.answers.target_gone(link, "the target is gone")

    def hang(self, link: int) -> int:
        self.hung.add(link)
        return self.answers.target_hung(link)


async def failure(answer: Answer) -> RequestError:
    with pytest.raises(RequestError) as error:
        async with asyncio.timeout(5):
            async for _ in answer:
                pass
    return error.value
