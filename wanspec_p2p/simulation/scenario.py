"""Scenario files: what an experiment is played with, in TOML, each value checked before anything is played.

Times are in milliseconds where a key ends in `_ms`. Keys that are left out are the reference setting's
(docs/topics/wan.md); docs/reference/cli.md lists them all. What `wanspec probe` writes is such a file.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from wanspec_p2p.protocol.limits import MAX_DRAFTERS
from wanspec_p2p.simulation.laws import REFERENCE_RANKS, IidLaw, Text
from wanspec_p2p.simulation.recording import check_shipped
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import MAX_PRICE, LocalDrafting

__all__ = [
    "MAX_DELAY_MS",
    "MAX_LOAD",
    "MAX_NODES",
    "Adversaries",
    "Churn",
    "Drafter",
    "LawOf",
    "Observed",
    "Region",
    "Scenario",
    "Target",
    "Way",
]

MAX_NODES = 256
MAX_DELAY_MS = 3_600_000
MAX_LOAD = 1000
HOURS = 24

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Chance: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
Delay: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_DELAY_MS)]
PassTime: TypeAlias = Annotated[float, Meta(ge=0.001, le=60_000)]  # virtual time has nanoseconds
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NODES)]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verification takes `pass_ms` for up to `nodes` nodes of the draft tree; beyond, in proportion to the rows."""

    pass_ms: PassTime = 30.0
    nodes: Annotated[int, Meta(ge=1, le=4096)] = 64
    local_drafter: bool = True
    price: Annotated[float, Meta(ge=0, le=MAX_PRICE)] = LocalDrafting().price  # of a local pass, beyond its time


class Drafter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every drafter, the target's own too: `pass_ms` for each full or begun `rows` rows."""

    pass_ms: PassTime = 5.0
    rows: Annotated[int, Meta(ge=1, le=4096)] = 8


class LawOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How right drafters are.

    `ranks` are for "iid". `recording` is a file of `wanspec record` for the others; where none is named it is the
    shipped one at `temperature`, by default 0. `tokenizer` is the fingerprint that it must be of.
    """

    kind: Literal["iid", "calibrated", "recorded"] = "iid"
    ranks: tuple[Share, ...] | None = None
    recording: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    tokenizer: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "iid":
            for key in ("recording", "tokenizer", "temperature"):
                if getattr(self, key) is not None:
                    raise ValueError(f"`{key}`: only for kind = 'calibrated' or 'recorded'")
            try:
                IidLaw(Text(0), ranks=REFERENCE_RANKS if self.ranks is None else self.ranks)
            except ValueError as error:
                raise ValueError(f"`ranks`: {error}") from error
        elif self.ranks is not None:
            raise ValueError("`ranks`: only for kind = 'iid'")
        elif self.recording is not None and not self.recording.isprintable():
            raise ValueError("`recording`: holds characters that cannot be printed")
        elif self.temperature is not None:
            if self.recording is not None:
                raise ValueError("`temperature`: the recording has its own; leave one out")
            try:
                check_shipped(self.temperature)
            except ValueError as error:
                raise ValueError(f"`temperature`: {error}") from error


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies between a node and the target; None: as `[wan]` says, and there: nothing."""

    rtt_ms: Delay | None = None
    jitter: Annotated[float, Meta(ge=0, le=100)] | None = None  # a uniform share of the delay, added to each frame
    stall_chance: Chance | None = None  # of each frame
    stall_ms: Delay | None = None  # by default 200 ms or two round trips
    bandwidth: Annotated[float, Meta(gt=0, le=1e15)] | None = None  # bytes per second


class Region(Way, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nodes of one place. `delay_ms`, `jitter_ms` and `load` are what `wanspec probe` observed, instead of `rtt_ms` and
    `jitter`: a median, the mean distance from it, and the share of the median that each hour (UTC) has.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    nodes: Annotated[int, Meta(ge=1, le=MAX_NODES)] = 1
    delay_ms: Delay | None = None
    jitter_ms: Delay | None = None
    load: (
        Annotated[tuple[Annotated[float, Meta(ge=0, le=MAX_LOAD)], ...], Meta(min_length=HOURS, max_length=HOURS)]
        | None
    ) = None

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("`name`: holds characters that cannot be printed")
        if self.delay_ms is None:
            for key in ("jitter_ms", "load"):
                if getattr(self, key) is not None:
                    raise ValueError(f"`{key}`: belongs to `delay_ms`, which is not there")
        else:
            for key in ("rtt_ms", "jitter"):
                if getattr(self, key) is not None:
                    raise ValueError(f"`{key}`: `delay_ms` says that already; leave one out")


class Churn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How nodes are lost.

    `loss_per_round`: chance of each drafter of a session to die in a round; one like it comes `replaced_after_ms`
    later, by default four round trips: one to find it, three for TCP, TLS and WebSocket. `silently`: its link does not
    break, it only carries nothing any more. `kill_share` of all nodes die together, `kill_at_ms` after the answers
    began, for good; their links break.
    """

    loss_per_round: Share = 0.0
    replaced_after_ms: Delay | None = None
    silently: bool = False
    kill_share: Share = 0.0
    kill_at_ms: Delay = 1000.0


class Adversaries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many of the nodes, from the first on in this order; the others are honest. What they do: `cast`."""

    lying: Count = 0
    silent: Count = 0
    far: Count = 0
    flapping: Count = 0
    stalling: Count = 0
    poor: Count = 0
    slow: Count = 0

    @property
    def kinds(self) -> list[str]:
        """One entry a node."""
        return [kind for kind in self.__struct_fields__ for _ in range(getattr(self, kind))]


class Observed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the delays of the regions come from, as `wanspec probe` says."""

    synthetic: bool
    begun: datetime.datetime
    ended: datetime.datetime


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment. `drafters` of an answer: by default two, or as many as there are nodes."""

    tokens: Annotated[int, Meta(ge=1, le=16_384)] = 256
    warm_up: Annotated[int, Meta(ge=0, le=16_384)] = 128  # tokens of an answer before those that count
    at_once: Annotated[int, Meta(ge=1, le=64)] = 1  # answers that are under way together
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 2
    hour: Annotated[int, Meta(ge=0, lt=HOURS)] | None = None  # of the regions' `load`; None: the usual delay
    nodes: Count | None = None  # where no region says it; 2 by default
    drafters: Annotated[int, Meta(ge=0, le=MAX_DRAFTERS)] | None = None
    target: Target = Target()
    drafter: Drafter = Drafter()
    law: LawOf = LawOf()
    wan: Way = Way()
    region: Annotated[tuple[Region, ...], Meta(max_length=MAX_NODES)] = ()
    churn: Churn = Churn()
    adversaries: Adversaries = Adversaries()
    observed: Observed | None = None

    def __post_init__(self) -> None:
        if self.region and self.nodes is not None:
            raise ValueError("`nodes`: the regions say how many there are; leave it out")
        names = [region.name for region in self.region]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`region`: two are called {twice!r}")
        if self.observed is not None and not self.region:
            raise ValueError("`observed`: there is no `region` whose delays were observed")
        if self.hour is not None and all(region.load is None for region in self.region):
            raise ValueError("`hour`: no region has a `load`")
        nodes = len(self.ways)
        if nodes > MAX_NODES:
            raise ValueError(f"`region`: {nodes} nodes are more than {MAX_NODES}")
        if self.drafters is not None and self.drafters > nodes:
            raise ValueError(f"`drafters`: {self.drafters} of {nodes} nodes")
        if len(self.adversaries.kinds) > nodes:
            raise ValueError(f"`adversaries`: {len(self.adversaries.kinds)} of {nodes} nodes")

    @property
    def per_session(self) -> int:
        """Drafters of each answer."""
        return min(2, len(self.ways)) if self.drafters is None else self.drafters

    @property
    def ways(self) -> list[Wan]:
        """To each node."""
        if not self.region:
            return [self._wan(self.wan)] * (2 if self.nodes is None else self.nodes)
        return [wan for region in self.region for wan in [self._region(region)] * region.nodes]

    def _wan(self, way: Way) -> Wan:
        def value(key: str) -> float | None:
            own: float | None = getattr(way, key)
            return getattr(self.wan, key) if own is None else own

        stall = value("stall_ms")
        return Wan(
            (value("rtt_ms") or 0.0) / 1e3,
            value("jitter") or 0.0,
            value("stall_chance") or 0.0,
            None if stall is None else stall / 1e3,
            value("bandwidth"),
        )

    def _region(self, region: Region) -> Wan:
        wan = self._wan(region)
        if region.delay_ms is None:
            return wan
        load = 1.0 if self.hour is None or region.load is None else region.load[self.hour]
        return Wan.observed(
            region.delay_ms * load / 1e3,
            (region.jitter_ms or 0.0) / 1e3,
            loss=wan.loss,
            recovery=wan.recovery,
            bandwidth=wan.bandwidth,
        )
