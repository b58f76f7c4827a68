"""Nodes that misbehave, each a real process with a real identity and a real lease: what the promise of exact text is
tried against.

    python -m wanspec_p2p.simulation.adversaries liar --data-dir DIR --cache-dir DIR --model smollm2-draft

The join token is the first line of its stdin, where other users of the machine cannot read it; it ends when its stdin
does. Everything but the misbehaviour is the node's shipped code, so the network admits them like any other.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from node.dialling import Dialler
from node.lease_checks import Held
from node.limits import LendingLimits
from node.service import NodeService
from wanspec_p2p import logs
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.links import membership
from wanspec_p2p.links.base import Link
from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.loading import load_language_model
from wanspec_p2p.models.segments import CachedTokens
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.echo import Echo
from wanspec_p2p.types import PeerId, Role, Segment

__all__ = ["Kind", "LiarModel", "SilentModel", "run"]


class Kind(enum.StrEnum):
    HONEST = "honest"
    LIAR = "liar"  # drafts a wrong token at every position, as fast as it can
    SILENT = "silent"  # takes every session and never drafts
    ECHO = "echo"  # drafts rightly, but says everything twice and repeats old frames later


class LiarModel:
    """Prefers one token, drawn from the whole vocabulary by a hash of the prefix, by a wide margin."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._caches: dict[str, CachedTokens] = {}

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        # About as long as a small model takes: without it the lies would take the processor from everybody else.
        await asyncio.sleep(0.005)
        return [self._lie(segment) for segment in batch]

    async def release(self, cache: str) -> None:
        self._caches.pop(cache, None)

    async def close(self) -> None:
        self._caches.clear()

    def _lie(self, segment: Segment) -> Rows:
        cache = self._caches.setdefault(segment.cache, CachedTokens())
        cache.apply(segment)
        rows = np.zeros((segment.rows, self._info.vocab_size), dtype=np.float32)
        for row, path in zip(rows, cache.row_paths(segment), strict=True):
            digest = hashlib.blake2b(repr(cache.tokens + path).encode(), digest_size=8).digest()
            row[int.from_bytes(digest, "little") % self._info.vocab_size] = 1000.0
        return rows


class SilentModel(LiarModel):
    """Its passes never end."""

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def run(kind: Kind, *, join: str, data_dir: Path, cache_dir: Path, model: str, stop: asyncio.Event) -> None:
    """Join and misbehave until `stop` is set."""
    clock = SystemClock()
    identity = Identity.load_or_create(data_dir / "identity.pem")
    home, secret = membership.coordinator_of(join, None, role=Role.NODE, now=clock.wall())
    language_model = await _model(kind, model, Catalog(cache_dir))
    info = language_model.info
    dialler = Dialler(identity, home, clock)

    async def dial_target(lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
        link = await dialler.target(lease, address)
        return Echo(link, random.Random(0)) if kind is Kind.ECHO else link

    service = NodeService(
        identity.peer_id,
        home.coordinator,
        RegisterNode(
            name=kind.value,
            models=(
                DrafterModel(
                    name=info.name,
                    digest=info.digest,
                    tokenizer=info.tokenizer,
                    vocab_size=info.vocab_size,
                    context=info.context,
                    tokens_per_second=1000.0,
                ),
            ),
            slots=64,
            owner=f"owner of {identity.peer_id[:8]}",
        ),
        language_model,
        LendingLimits(slots=64, max_prefix=info.context - 1),
        secret=secret,
        enrolled=False,
        dial_coordinator=dialler.coordinator,
        dial_target=dial_target,
        time_target=dialler.time,
        loopback=lambda: dialler.loopback,
        joined=lambda pool: _say_ready(identity.peer_id),
        clock=clock,
        rng=random.Random(),
    )
    try:
        await service.serve(stop)
    finally:
        await language_model.close()


def _say_ready(peer: PeerId) -> None:
    """The line whoever started this waits for; the same as `wanspec node`'s."""
    sys.stdout.write(json.dumps({"event": "ready", "peer": peer}) + "\n")
    sys.stdout.flush()


async def _model(kind: Kind, name: str, catalog: Catalog) -> LanguageModel:
    if kind in (Kind.HONEST, Kind.ECHO):
        return await load_language_model(name, catalog=catalog, threads=1, dtype=None, fast=True)
    # Only the vocabulary matters to those who do not compute: the n-gram drafter loads no weights.
    honest = await load_language_model("ngram:smollm2-135m", catalog=catalog, threads=1, dtype=None)
    return LiarModel(honest.info) if kind is Kind.LIAR else SilentModel(honest.info)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[kind.value for kind in Kind])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-draft")
    arguments = parser.parse_args()
    join = sys.stdin.readline()
    logs.configure(json=False)
    os.nice(1)  # on one machine the target comes first
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def parent_said() -> None:
        if not os.read(sys.stdin.fileno(), 4096):  # whoever started this held the other end, and is gone
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), parent_said)
    await run(
        Kind(arguments.kind),
        join=join,
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        model=arguments.model,
        stop=stop,
    )


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except WanspecError as error:
        sys.exit(f"adversary: {error}")
