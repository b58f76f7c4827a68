"""The reference setting: one answer at a time, at every distance, beside what the target could do alone.

30 ms a verification of up to 64 nodes, 5 ms a draft pass of up to 8, the target's token at the drafter's rank
1/2/3/4/none with probability .80/.13/.04/.015/.015. Two baselines draft at the target alone: a chain, as WANSpec
(arXiv 2602.18931) compares with, and a tree, which is harder to beat. What they are for: `experiment`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from node.drafting import DraftingEngine, Outlet, Seat, SessionCore
from wanspec_p2p.simulation.drafting_node import NodeSpec
from wanspec_p2p.simulation.laws import (
    REFERENCE_RANKS,
    CalibratedLaw,
    Guess,
    IidLaw,
    Judged,
    Law,
    Place,
    RecordedLaw,
    Text,
)
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, WithCode, flat
from wanspec_p2p.simulation.recording import shipped
from wanspec_p2p.simulation.site import Answer, Site, question, run_answer
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.drafter_session import DrafterSession
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

__all__ = [
    "PASSES",
    "PROMPT",
    "WARM_UP_PROMPT",
    "Figures",
    "LawName",
    "Setting",
    "chain_alone",
    "law_of",
    "play",
    "prompts",
    "summed",
    "tree_alone",
]

LawName: TypeAlias = Literal["iid", "calibrated", "recorded"]
PASSES = tuple(range(1, 9))
"""Of the baselines, the best of which counts: draft passes before a verification, and tokens of a chain."""
PROMPT = tuple(range(16))
WARM_UP_PROMPT = (*PROMPT, 1)


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell of the experiment.

    Args:
        drafters: nodes that draft for the answer; 0 leaves the target alone.
        spares: nodes attached besides.
        hedge: whether a spare is opened beside a drafter that has gone silent.
        local: whether the target has a drafter of its own.
        warm_up: tokens of an answer before those that count, so that what is learned has been.
        answers: one after the other, each to a prompt of its own.
        law: whether drafters are right by `ranks`, or by the recording of SmolLM2 that comes with the package.
        temperature: of that recording.
        ranks: chances of the law "iid".
        lanes: whether nodes share the branches out; without, each drafts all of them.
        rests: whether nodes rest for a moment when a verdict is due.
        chain: whether nodes draft a chain only: one candidate a place, one place a pass.
        verify, draft: seconds of a pass over up to `width` nodes, and of `rows` rows.
        verify_code, draft_code, node_code: seconds that the code around the model takes for each verification, for each
            draft pass of the target, and for each pass of a node.
    """

    drafters: int = 2
    spares: int = 0
    hedge: bool = True
    wan: Wan = Wan()
    policy: Policy = Policy()
    local: bool = True
    law: LawName = "iid"
    temperature: float = 0.0
    ranks: tuple[float, ...] = REFERENCE_RANKS
    lanes: bool = True
    rests: bool = True
    chain: bool = False
    tokens: int = 256
    warm_up: int = 128
    answers: int = 1
    verify: float = 0.030
    width: int = 64
    draft: float = 0.005
    rows: int = 8
    verify_code: float = 0.0
    draft_code: float = 0.0
    node_code: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over answers."""

    tokens: int = 0
    seconds: float = 0.0
    rounds: int = 0
    local_passes: int = 0
    remote_passes: int = 0

    @property
    def per_token(self) -> float:
        """Seconds."""
        return self.seconds / self.tokens

    @property
    def local_per_token(self) -> float:
        """Draft passes at the target."""
        return self.local_passes / self.tokens

    @property
    def remote_per_token(self) -> float:
        """Draft passes at all nodes together."""
        return self.remote_passes / self.tokens


def play(setting: Setting, seed: int) -> Figures:
    """The answers of a setting, in virtual time, checked against the text they must be.

    Raises:
        RuntimeError: it is another.
    """
    return run_in_virtual_time(_play(setting, seed))


async def _play(setting: Setting, seed: int) -> Figures:
    text = Text(seed)
    law = law_of(setting, text)

    def drafter(law: Law, code: float) -> SimulatedDrafter:
        return SimulatedDrafter(law, DeviceTime(WithCode(Steps(setting.draft, setting.rows), code)))

    target = SimulatedTarget(text, DeviceTime(WithCode(flat(setting.verify, setting.width), setting.verify_code)))
    engine = _engine(setting)
    remote = _FirstOnly(law) if setting.chain else law
    nodes = [
        NodeSpec(drafter(remote, setting.node_code), setting.wan.path(), setting.wan.path(), engine=engine)
        for _ in range(setting.drafters + setting.spares)
    ]
    local = drafter(law, setting.draft_code) if setting.local else None
    async with Site(target, nodes, seed=seed, drafters=setting.drafters, local=local, hedge=setting.hedge) as site:
        if setting.warm_up:
            await run_answer(site, question(f"warm-up-{seed}", WARM_UP_PROMPT, setting.warm_up), setting.policy)
        found: list[Figures] = []
        for prompt in prompts(setting.answers):
            answer = await run_answer(
                site, question(f"answer-{seed}-{len(found)}", prompt, setting.tokens), setting.policy
            )
            if list(answer.tokens) != text.continuation(prompt, setting.tokens):
                raise RuntimeError(f"the answer is not the target's own: seed {seed} of {setting}")
            found.append(_figures(answer))
    return summed(found)


def prompts(answers: int) -> list[tuple[int, ...]]:
    """Of the answers that count."""
    return [PROMPT if number == 0 else (*PROMPT, number + 1) for number in range(answers)]


def law_of(setting: Setting, text: Text) -> Law:
    """How right its drafters are."""
    match setting.law:
        case "iid":
            return IidLaw(text, ranks=setting.ranks)
        case "calibrated":
            return CalibratedLaw(text, _judged(setting.temperature))
        case "recorded":
            return RecordedLaw(text, _judged(setting.temperature))


@functools.cache
def _judged(temperature: float) -> tuple[Judged, ...]:
    return shipped(temperature).judged()


def _engine(setting: Setting) -> type[DraftingEngine]:
    """What its nodes run."""
    if setting.chain:
        return _ChainEngine
    if not setting.lanes:
        return _LanelessEngine
    return DraftingEngine if setting.rests else _RestlessEngine


class _FirstOnly:
    """A law whose drafters name one candidate."""

    def __init__(self, law: Law) -> None:
        self.text, self._law = law.text, law

    def guess(self, place: Place) -> Guess:
        found = self._law.guess(place)
        return Guess(found.tokens[:1], found.logits[:1])


class _ChainEngine(DraftingEngine):
    """Runs one place of a session in a pass."""

    @property
    def batch(self) -> int:
        return 1


class _OtherwiseEngine(DraftingEngine):
    """Its sessions are drafted for in another way than the target asks."""

    otherwise: Mapping[str, Any]

    def seat(self, core: SessionCore, cache: str, outlet: Outlet) -> Seat:
        if isinstance(core, DrafterSession):
            core = DrafterSession(replace(core.spec, **self.otherwise), core.table)
        return super().seat(core, cache, outlet)


class _LanelessEngine(_OtherwiseEngine):
    """Every branch is its own business, whoever else drafts."""

    otherwise = {"lane": 0, "lanes": 1}


class _RestlessEngine(_OtherwiseEngine):
    """Begins one pass when another has ended, whatever is due."""

    otherwise = {"rests": False}


def _figures(answer: Answer) -> Figures:
    return Figures(
        tokens=len(answer.tokens),
        seconds=answer.seconds,
        rounds=answer.stats.rounds,
        local_passes=answer.stats.local_passes,
        remote_passes=answer.draft_passes,
    )


def summed(figures: Sequence[Figures]) -> Figures:
    return Figures(*(sum(getattr(one, name) for one in figures) for name in Figures.__dataclass_fields__))


def tree_alone(passes: int, base: Setting = Setting()) -> Setting:
    """A co-located tree of so many draft passes a round; models and length of `base`."""
    return replace(base, drafters=0, local=True, wan=Wan(), policy=Policy(width=64, local=LocalDrafting(passes=passes)))


def chain_alone(length: int, base: Setting = Setting()) -> Setting:
    """A co-located chain of `length` tokens."""
    chain = LocalDrafting(rows=1, candidates=1, passes=length)
    return replace(tree_alone(length, base), policy=Policy(width=64, local=chain))
