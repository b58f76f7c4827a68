"""The trained drafter beside what needs no training, on the same answers: is it worth its passes?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.distill.evaluation import rank_answers, time_passes
from wanspec_p2p.models.distill.figures import Answer, Costs, Figures, expected_speedup, measure
from wanspec_p2p.models.loading import load_language_model
from wanspec_p2p.models.pull import Progress
from wanspec_p2p.models.torch_device import Placement

__all__ = ["Contender", "Judgement", "Standing", "judge"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A drafter to be judged, as `load_language_model` takes it."""

    model: str
    copying: bool = True


class Standing(msgspec.Struct, frozen=True):
    """One drafter's figures at one temperature."""

    drafter: str
    temperature: float
    figures: Figures
    speedup_beside: float  # expected, drafter and target in turn on one machine
    best_length: int  # of its chains there; 0: better without
    speedup_remote: float  # expected at most, drafts from elsewhere always in time


class Judgement(msgspec.Struct, frozen=True):
    standings: tuple[Standing, ...]
    costs: dict[str, Costs]


async def judge(
    drafters: Mapping[str, Contender],
    target: str,
    answers: Sequence[Answer],
    *,
    catalog: Catalog,
    placement: Placement,
    progress: Progress,
) -> Judgement:
    """Figures of every drafter over `answers`, for each temperature in them.

    Args:
        drafters: by what each is called.
        target: as `load_language_model` takes it; only its speed is measured.
    """
    temperatures = sorted({answer.temperature for answer in answers})
    engine = await load_language_model(
        target,
        catalog=catalog,
        threads=placement.threads,
        dtype=placement.dtype,
        device=placement.device,
        copying=False,
    )
    standings: list[Standing] = []
    costs: dict[str, Costs] = {}
    try:
        for name, contender in drafters.items():
            drafter = await load_language_model(
                contender.model,
                catalog=catalog,
                threads=placement.threads,
                dtype=placement.dtype,
                device=placement.device,
                copying=contender.copying,
            )
            try:
                label = f"judge {name}"
                ranks = await rank_answers(
                    drafter,
                    answers,
                    lambda done, label=label: progress(label, done, len(answers)),  # type: ignore[misc]
                )
                costs[name] = await time_passes(drafter, engine, answers[0].prompt + answers[0].tokens)
            finally:
                await drafter.close()
            for temperature in temperatures:
                own = [i for i, answer in enumerate(answers) if math.isclose(answer.temperature, temperature)]
                figures = measure([answers[i] for i in own], [ranks[i] for i in own])
                standings.append(Standing(name, temperature, figures, *expected_speedup(figures, costs[name])))
    finally:
        await engine.close()
    return Judgement(tuple(standings), costs)
