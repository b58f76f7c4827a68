from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from wanspec_p2p.cli.bench.measuring import Prompt
from wanspec_p2p.cli.bench.wire import measure
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.base import ModelInfo
from wanspec_p2p.types import Sampling, Segment

PROMPTS = [Prompt("1", "", "Why is the sky blue?"), Prompt("2", "", "Why?")]


class ForeignModel(ScriptedModel):
    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(super().info, name="foreign", tokenizer="f" * 64)


def target_that_lets(drafter: ScriptedModel, passes: int) -> ScriptedModel:
    """A target whose answers begin only when the drafter has run ahead by so many passes."""
    ran = asyncio.Event()

    async def drafter_runs(batch: Sequence[Segment]) -> None:
        ran.set()

    async def target_runs(batch: Sequence[Segment]) -> None:
        if batch[0].length > 0:
            return
        until = len(drafter.batches) + passes
        async with asyncio.timeout(20):
            while len(drafter.batches) < until:
                ran.clear()
                await ran.wait()

    drafter.before_forward = drafter_runs
    return ScriptedModel(1, before_forward=target_runs)


async def test_tokens_and_bytes_are_counted() -> None:
    drafter = ScriptedModel(1)
    target = target_that_lets(drafter, passes=3)
    figures = await measure(target, drafter, ByteTokenizer(), PROMPTS, tokens=16, sampling=Sampling())
    assert figures.tokens == 32
    assert 0 < figures.accepted <= figures.drafted
    assert figures.bytes_down > sum(len(prompt.text) for prompt in PROMPTS)
    assert figures.bytes_up > figures.drafted
    assert figures.as_json()["bytes_per_drafted_token"] == (figures.bytes_up + figures.bytes_down) / figures.drafted


async def test_a_drafter_of_another_tokenizer_is_refused_as_the_target_refuses_it() -> None:
    foreign = ForeignModel(1)
    with pytest.raises(ConfigError, match="foreign cannot draft for this target: .*the drafter's tokenizer f+ is not"):
        await measure(ScriptedModel(1), foreign, ByteTokenizer(), PROMPTS, tokens=4, sampling=Sampling())
