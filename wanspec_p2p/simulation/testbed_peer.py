"""A target or a node of the testbed: the shipped service in a process of its own, with a model that only takes time.

    python -m wanspec_p2p.simulation.testbed_peer node --data-dir DIR --name ada --seed 0

Started by `wanspec testbed`; nobody's text is to be had from it. The join token is the first line of its stdin, where
other users of the machine cannot read it; until it comes, a node that is to take another's place waits. Each further
line is answered with a line of counts; it ends when its stdin does. What a node of a bad kind does is told in `cast`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from node.dialling import Dialler
from node.lease_checks import Held
from node.limits import LendingLimits
from node.probes import tokens_per_second
from node.service import NodeService
from wanspec_p2p import logs
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import Unreachable, WanspecError
from wanspec_p2p.links import membership
from wanspec_p2p.links.base import Link
from wanspec_p2p.links.membership import Membership
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.links.websocket import DRAFT_PATH, dial, listen
from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_COORDINATOR
from wanspec_p2p.protocol.coordinator_to_node import Landmark
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.simulation.cast import HONEST, REDIAL_SECONDS, drafting, law
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.metering import MeteredModel
from wanspec_p2p.simulation.models import SIMULATED_TOKENIZER, SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, LastPass, Steps, flat
from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.simulation.relay import punctual_loop
from wanspec_p2p.simulation.scenario import LawOf
from wanspec_p2p.simulation.swarm_peers import SimulatedTokenizer
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.target.service import TARGET_PATH
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import Target
from wanspec_p2p.types import Role

__all__ = ["HONEST_PART", "SLOTS", "Part", "peer_command"]

SLOTS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """What a node is to be.

    Args:
        kind: honest, or an adversary's, as in `cast`.
        through: what it dials instead of the target's own address.
        slow: by what adversaries' own times are stretched.
    """

    kind: str = HONEST
    through: str | None = None
    slow: float = 1.0


HONEST_PART, USUAL_LAW = Part(), LawOf()


def peer_command(
    role: Role,
    data_dir: Path,
    *,
    name: str,
    seed: int,
    setting: Setting,
    address: str | None = None,
    slots: int = SLOTS,
    law: LawOf = USUAL_LAW,
    part: Part = HONEST_PART,
) -> list[str]:
    """What starts one.

    Args:
        setting: the models' times, drafters of a session, whether the target has a drafter of its own, and how many
            passes of it come before each verification, if that is fixed.
        address: what nodes dial to reach a target.
        slots: sessions served at once.
        law: how right honest drafters are.
        part: a node's.
    """
    passes = setting.policy.local.passes
    times = (("verify", setting.verify), ("width", setting.width), ("draft", setting.draft), ("rows", setting.rows))
    return [
        *(sys.executable, "-P", "-m", "wanspec_p2p.simulation.testbed_peer", role.value),
        *("--data-dir", str(data_dir), "--name", name, "--seed", str(seed), "--drafters", str(setting.drafters)),
        *("--slots", str(slots)),
        *(part for flag, value in times for part in (f"--{flag}", repr(value))),
        *(() if setting.local else ("--no-local",)),
        *(() if passes is None else ("--local-passes", str(passes))),
        *(() if address is None else ("--address", address)),
        *(() if law == USUAL_LAW else ("--law", msgspec.json.encode(law).decode())),
        *(() if part == HONEST_PART else ("--kind", part.kind, "--slow", repr(part.slow))),
        *(() if part.through is None else ("--through", part.through)),
    ]


class _Peer:
    """What both roles have: who they are, whom they belong to, and what their models did."""

    def __init__(self, arguments: argparse.Namespace, setting: Setting, join: str) -> None:
        self.name, self.setting, self.slots, self.data_dir = (
            arguments.name,
            setting,
            arguments.slots,
            arguments.data_dir,
        )
        self.part = Part(arguments.kind, arguments.through or None, arguments.slow)
        self.text = Text(arguments.seed)
        self.law = law(msgspec.json.decode(arguments.law, type=LawOf), self.text)
        self.sessions: Callable[[], int] = int  # that this peer drafts for
        self.clock = SystemClock()
        self.identity = Identity.load_or_create(self.data_dir / "identity.pem")
        self.home, self.secret = membership.coordinator_of(join, None, role=Role(arguments.role), now=self.clock.wall())
        self._last = LastPass()
        self._models: dict[str, tuple[MeteredModel, DeviceTime]] = {}

    def drafter(self, name: str, kind: str = HONEST) -> MeteredModel:
        law, seconds = drafting(kind, self.law, self.setting.draft, self.part.slow)
        pace = DeviceTime(Steps(seconds, self.setting.rows), last=self._last)
        return self._metered(name, SimulatedDrafter(law, pace), pace)

    def target(self) -> MeteredModel:
        pace = DeviceTime(flat(self.setting.verify, self.setting.width), last=self._last)
        return self._metered("target", SimulatedTarget(self.text, pace), pace)

    def counts(self) -> dict[str, float]:
        """Sessions drafted for now; and so far, by model: passes, the seconds by which they ended too late, and what
        lay between them in the median."""
        found: dict[str, float] = {"sessions": self.sessions()}
        for name, (model, pace) in self._models.items():
            found[f"{name}_passes"], found[f"{name}_late_seconds"] = model.passes, pace.late
            found[f"{name}_pause_seconds"] = statistics.median(pace.pauses) if pace.pauses else 0.0
        return found

    def _metered(self, name: str, model: LanguageModel, pace: DeviceTime) -> MeteredModel:
        metered = MeteredModel(model, name, None)
        self._models[name] = metered, pace
        return metered


@dataclass(frozen=True, kw_only=True)
class _Settings(TargetSettings):
    """Of a target whose use of its own drafter may be set."""

    own: LocalDrafting = LocalDrafting()

    @property
    def policy(self) -> Policy:
        return replace(super().policy, local=self.own)


async def _serve_target(peer: _Peer, address: str, ready: Callable[..., None], stop: asyncio.Event) -> None:
    settings = _Settings(
        data_dir=peer.data_dir,
        cache_dir=peer.data_dir,
        model="simulated-target",
        name=peer.name,
        address=address or None,
        slots=peer.slots,
        drafters=peer.setting.drafters,
        own=peer.setting.policy.local,
    )
    target = Target(
        settings,
        peer.identity,
        peer.home.coordinator,
        peer.target(),
        SimulatedTokenizer(SIMULATED_TOKENIZER),
        peer.clock,
        dial=partial(_dial_coordinator, peer.home, peer.identity),
        rng=random.Random(),
        local=peer.drafter("local") if peer.setting.local else None,
    )
    listener = await listen(settings.host, settings.port, target.admit, tls=None)
    try:
        dialled = address or f"ws://127.0.0.1:{listener.port}{DRAFT_PATH}"
        await target.serve(dialled, None, peer.secret, lambda pool: ready(port=listener.port), stop)
    finally:
        await listener.close()


async def _dial_coordinator(home: Membership, identity: Identity) -> PeerLink[CoordinatorToTarget]:
    return await connect(
        await dial(f"{home.url}{TARGET_PATH}", certificate=home.certificate),
        AT_TARGET_FROM_COORDINATOR,
        identity=identity,
        role=Role.TARGET,
        expect=home.peer_id,
        clock=SystemClock(),
    )


class _Eager(random.Random):
    """Of a node that dials again at once, whatever the back-off."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, min(b, self._seconds))


async def _serve_node(peer: _Peer, ready: Callable[..., None], stop: asyncio.Event) -> None:
    part = peer.part
    model = peer.drafter("node", part.kind)
    info = model.info
    # Nobody waits for a pass that takes a minute: a silent node is as quick as the others, by its own account.
    speed = 1.0 / peer.setting.draft if part.kind == "silent" else await tokens_per_second(model, peer.clock)
    dialler = Dialler(peer.identity, peer.home, peer.clock)

    async def dial_target(lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
        return await dialler.target(lease, part.through or address)

    async def time_target(landmark: Landmark) -> float:
        raise Unreachable("a relay opens every connection at once, however far it is")

    drafter = DrafterModel(info.name, info.digest, info.tokenizer, info.vocab_size, info.context, speed)
    service = NodeService(
        peer.identity.peer_id,
        peer.home.coordinator,
        # Drafters of one session have different owners and sites.
        RegisterNode(peer.name, (drafter,), peer.slots, owner=f"owner of {peer.name}", site=f"site of {peer.name}"),
        model,
        LendingLimits(slots=peer.slots, max_prefix=info.context - 1),
        secret=peer.secret,
        enrolled=False,
        dial_coordinator=dialler.coordinator,
        dial_target=dial_target,
        time_target=time_target,
        loopback=lambda: dialler.loopback,
        joined=lambda pool: ready(peer=peer.identity.peer_id),
        clock=peer.clock,
        rng=_Eager(REDIAL_SECONDS * part.slow) if part.kind == "flapping" else random.Random(),
    )
    peer.sessions = lambda: service.engine.sessions
    await service.serve(stop)


def _say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=[Role.TARGET.value, Role.NODE.value])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--address", default="", help="what nodes dial")
    parser.add_argument("--slots", type=int, default=SLOTS, help="sessions at once")
    usual = Setting()
    for flag in ("drafters", "verify", "width", "draft", "rows"):
        value = getattr(usual, flag)
        parser.add_argument(f"--{flag}", type=type(value), default=value)
    parser.add_argument("--no-local", dest="local", action="store_false")
    parser.add_argument("--local-passes", type=int, help="of the target's own drafter before each verification")
    parser.add_argument("--law", default="{}", help="of honest drafters, as in a scenario; JSON")
    parser.add_argument("--kind", default=HONEST, help="of a node")
    parser.add_argument("--slow", type=float, default=1.0, help="stretches what adversaries do in time")
    parser.add_argument("--through", default="", help="what a node dials instead of the target's address")
    return parser.parse_args()


async def _main(arguments: argparse.Namespace) -> None:
    join = sys.stdin.readline()
    logs.configure(json=False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    setting = Setting(
        drafters=arguments.drafters,
        local=arguments.local,
        verify=arguments.verify,
        width=arguments.width,
        draft=arguments.draft,
        rows=arguments.rows,
        policy=Policy(local=LocalDrafting(passes=arguments.local_passes)),
    )
    peer = _Peer(arguments, setting, join)

    def parent_said() -> None:
        if os.read(sys.stdin.fileno(), 4096):
            _say(tasks=len(asyncio.all_tasks()), **peer.counts())
        else:  # whoever started this held the other end, and is gone
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), parent_said)
    ready = partial(_say, event="ready")
    if arguments.role == Role.TARGET.value:
        await _serve_target(peer, arguments.address, ready, stop)
    else:
        await _serve_node(peer, ready, stop)


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=punctual_loop) as runner:
            runner.run(_main(_arguments()))
    except WanspecError as error:
        sys.exit(f"testbed peer: {error}")
