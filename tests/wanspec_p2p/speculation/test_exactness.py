"""Both sessions together: the answer is the target's own, whatever the drafters and the order of events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.session_driver import SMALL, Drive, chosen, drafters_first, seeded
from tests.support.session_peers import HonestPeer, JunkPeer, LyingPeer, Peer, SilentPeer
from tests.support.session_rows import Rows, SureTable, decode_alone, scripted_rows
from wanspec_p2p.protocol.checks import check
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts
from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.local import LOCAL
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import FinishReason, PeerId, Sampling, SessionId

VOCABULARY = 12
SAMPLINGS = {
    "greedy": Sampling(),
    "greedy, penalised": Sampling(
        repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, logit_bias=((3, 1.0),), min_tokens=6
    ),
    "next to no temperature": Sampling(temperature=1e-320, top_p=0.9),
    "sampled": Sampling(temperature=0.8),
    "sampled, everything": Sampling(
        temperature=0.8,
        top_k=9,
        top_p=0.9,
        repetition_penalty=1.2,
        presence_penalty=-0.3,
        frequency_penalty=0.5,
        logit_bias=((1, -2.0), (5, 1.5)),
        min_tokens=9,
    ),
}
POLICIES = {
    "small": SMALL,
    "tight": Policy(width=3, window=Window(positions=4, tokens=5)),
}


def spec_of(sampling: Sampling, *, max_tokens: int = 24, committed: tuple[int, ...] = (), seed: int = 7) -> SessionSpec:
    return SessionSpec(
        session=SessionId("5e5510"),
        prompt=(1, 2, 3, 2),
        seed=seed.to_bytes(16, "little"),
        sampling=sampling,
        vocab_size=VOCABULARY,
        max_tokens=max_tokens,
        committed=committed,
        stop_tokens=(0,),
    )


class Scene:
    """One answer to come: the target's law, the answer it gives alone, and a drive that has not begun."""

    def __init__(
        self,
        spec: SessionSpec,
        policy: Policy,
        schedule: Callable[[int], int],
        *,
        law: int = 11,
        local: float | None = None,
    ) -> None:
        self.spec, self.law, self.policy, self.schedule = spec, law, policy, schedule
        self.rows = scripted_rows(law, VOCABULARY, ties=law % 2 == 1)
        self.alone = decode_alone(spec, self.rows)
        self.drive = Drive(spec, self.rows, schedule, policy, local=None if local is None else self.drafter(local))

    def drafter(self, drift: float = 0.2) -> Rows:
        return scripted_rows(self.law, VOCABULARY, drift=drift, ties=self.law % 2 == 1)

    def honest(self, drift: float = 0.2, *, context: int = 4096, lanes: int = 1, batch: int = 8) -> HonestPeer:
        return HonestPeer(self.spec, self.drafter(drift), context=context, lanes=lanes, batch=batch)

    def finish(self) -> Drive:
        assert self.drive.run() == self.alone
        stopped = self.alone[-1] in self.spec.stop_tokens
        assert self.drive.finished is (FinishReason.STOP if stopped else FinishReason.LENGTH)
        for figures in self.drive.target.stats.peers.values():
            counts = (figures.drafted, figures.verified, figures.accepted, figures.won)
            receipt = Receipt("r", PeerId("a" * 32), "j", "s", *counts, by_depth=figures.by_depth)
            assert check(Receipts("b", (receipt,))) is None, "it would cost the target its link to the coordinator"
        return self.drive


def no_drafter(scene: Scene) -> None:
    drive = scene.finish()
    assert drive.target.stats.rounds == len(scene.alone) - len(scene.spec.committed)


def three_honest(scene: Scene) -> None:
    peers = [scene.honest(0.0), scene.honest(0.2, lanes=3), scene.honest(0.5, lanes=3, batch=1)]
    for i, peer in enumerate(peers):
        scene.drive.join(f"n{i}", peer, lane=i)
    drive = scene.finish()
    for peer in peers:
        assert peer.abandoned is None
        assert peer.session is not None
    for figures in drive.target.stats.drafters.values():
        assert (figures.surplus, figures.won <= figures.accepted <= figures.verified <= figures.drafted) == (0, True)
    assert sum(drive.target.stats.won_by_peer.values()) == drive.target.stats.accepted


def liar_in_every_token(scene: Scene) -> None:
    scene.drive.join("liar", LyingPeer(scene.spec, scene.alone))
    drive = scene.finish()
    assert drive.target.stats.of(PeerId("liar")).accepted == 0
    assert drive.target.stats.rounds == len(scene.alone) - len(scene.spec.committed)


def liar_among_honest(scene: Scene) -> None:
    honest = scene.honest(0.0)
    scene.drive.join("liar", LyingPeer(scene.spec, scene.alone))
    scene.drive.join("junk", JunkPeer(scene.spec, scene.law))
    scene.drive.join("honest", honest)
    scene.finish()
    assert honest.abandoned is None


def silent(scene: Scene) -> None:
    peer = SilentPeer()
    scene.drive.join("silent", peer)
    scene.finish()
    assert len(peer.received) == 1 + scene.drive.target.stats.rounds  # Open, a verdict a round, Close for the last


def leaving_mid_answer(scene: Scene) -> None:
    stays = scene.honest(0.3)
    scene.drive.join("leaves", scene.honest(0.0))
    scene.drive.join("stays", stays)
    half = (len(scene.spec.committed) + len(scene.alone)) // 2
    scene.drive.run(until=lambda: len(scene.drive.tokens) >= half)
    scene.drive.leave("leaves")
    scene.finish()
    assert stays.abandoned is None


def leaving_and_coming_back(scene: Scene) -> None:
    """Its node keeps its name and its drafts stay in the tree, but the new session knows nothing of them."""
    again = scene.honest(0.0)
    scene.drive.join("restarts", scene.honest(0.0))
    figures = scene.drive.target.stats.of(PeerId("restarts"))
    scene.drive.run(until=lambda: figures.drafted - figures.late > figures.accepted + 1)
    if scene.drive.finished is None:
        scene.drive.leave("restarts")
        scene.drive.join("restarts", again)
    scene.finish()
    assert again.abandoned is None


def duplicated_and_late(scene: Scene) -> None:
    peers = [scene.honest(0.0), scene.honest(0.2), scene.honest(0.0)]
    scene.drive.join("twice", peers[0], copies=2)
    scene.drive.join("late", peers[1], delay=2)
    scene.drive.join("again", peers[2], delay=1, replay=True)
    scene.finish()
    assert [peer.abandoned for peer in peers] == [None] * 3


def own_drafter(scene: Scene) -> None:
    for drift, passes in ((0.0, None), (0.5, None), (0.5, 2)):
        policy = dataclasses.replace(scene.policy, local=LocalDrafting(rows=3, candidates=2, passes=passes))
        again = Scene(scene.spec, policy, scene.schedule, law=scene.law, local=drift)
        peer = again.honest(0.2)
        again.drive.join("honest", peer)
        again.drive.join("liar", LyingPeer(scene.spec, scene.alone))
        stats = again.finish().target.stats
        assert peer.abandoned is None
        assert stats.local_passes > 0 or passes is None  # where a liar has claimed all there is, it keeps still
        assert sum(stats.won_by_peer.values()) <= stats.accepted


CONDITIONS: dict[str, Callable[[Scene], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        no_drafter,
        three_honest,
        liar_in_every_token,
        liar_among_honest,
        silent,
        leaving_mid_answer,
        leaving_and_coming_back,
        duplicated_and_late,
        own_drafter,
    )
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_answer_is_that_of_the_target_alone(condition: str, sampling: str) -> None:
    for name, policy in POLICIES.items():
        for schedule in range(4):
            scene = Scene(spec_of(SAMPLINGS[sampling]), policy, seeded(schedule), law=11 + schedule)
            assert len(scene.alone) > 1, name
            CONDITIONS[condition](scene)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_answer_goes_on_from_any_of_its_positions(sampling: str) -> None:
    whole = Scene(spec_of(SAMPLINGS[sampling]), Policy(), seeded(0), law=12).alone
    for position in range(len(whole)):
        spec = spec_of(SAMPLINGS[sampling], committed=tuple(whole[:position]))
        scene = Scene(spec, SMALL, seeded(position), law=12)
        assert scene.alone == whole
        three_honest(scene)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_drafter_of_the_same_law_settles_many_tokens_a_round(sampling: str) -> None:
    """Equal laws and equal noise: every first candidate is right, at any temperature."""
    scene = Scene(spec_of(SAMPLINGS[sampling], max_tokens=40), Policy(width=7), drafters_first, law=14)
    scene.drive.join("twin", HonestPeer(scene.spec, scene.drafter(0.0), table=SureTable()))
    drive = scene.finish()
    figures = drive.target.stats.of(PeerId("twin"))
    assert figures.accepted == figures.verified
    assert drive.target.stats.rounds <= math.ceil(len(scene.alone) / 6)  # the width is seven, less while it is unknown


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_drafter_of_the_same_law_need_not_know_that_it_is(sampling: str) -> None:
    """It drafts a tree while it knows nothing of itself; the answer's path is in it."""
    scene = Scene(spec_of(SAMPLINGS[sampling], max_tokens=40), Policy(), drafters_first, law=14)
    scene.drive.join("twin", scene.honest(0.0))
    drive = scene.finish()
    assert drive.target.stats.rounds <= math.ceil(len(scene.alone) / 4)
    assert drive.target.stats.of(PeerId("twin")).acceptance > 0.8


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_own_drafter_of_the_same_law_settles_more_than_the_target_alone(sampling: str) -> None:
    policy = Policy(local=LocalDrafting(passes=3))
    scene = Scene(spec_of(SAMPLINGS[sampling], max_tokens=40), policy, drafters_first, law=14, local=0.0)
    drive = scene.finish()
    assert drive.target.stats.rounds <= math.ceil(len(scene.alone) / 2)
    assert drive.target.stats.of(LOCAL).won == drive.target.stats.accepted > 0
    assert drive.target.stats.won_by_peer == {}


@dataclass(frozen=True)
class Newcomer:
    """One who joins after so many events; if its name is taken, whoever bears it leaves first."""

    kind: str
    name: str
    after: int
    drift: float
    context: int
    copies: int
    delay: int
    replay: bool
    lanes: int
    batch: int

    def peer(self, scene: Scene) -> Peer:
        match self.kind:
            case "liar":
                return LyingPeer(scene.spec, scene.alone)
            case "junk":
                return JunkPeer(scene.spec, scene.law)
            case "silent":
                return SilentPeer()
            case _:
                return scene.honest(self.drift, context=self.context, lanes=self.lanes, batch=self.batch)


newcomers = st.builds(
    Newcomer,
    kind=st.sampled_from(["honest", "honest", "liar", "junk", "silent"]),
    name=st.sampled_from("ab"),
    after=st.integers(0, 60),
    drift=st.sampled_from([0.0, 0.2, 1.0]),
    context=st.sampled_from([9, 99]),
    copies=st.integers(1, 3),
    delay=st.integers(0, 3),
    replay=st.booleans(),
    lanes=st.integers(1, 3),
    batch=st.sampled_from([1, 2, 8]),
)
policies = st.builds(
    Policy,
    width=st.integers(0, 7),
    window=st.builds(Window, positions=st.integers(0, 8), tokens=st.integers(0, 12)),
    retry_rounds=st.integers(1, 4),
    local=st.builds(
        LocalDrafting,
        rows=st.integers(1, 4),
        candidates=st.integers(1, 4),
        passes=st.one_of(st.none(), st.integers(0, 2)),
    ),
)
specs = st.builds(
    spec_of, st.sampled_from(list(SAMPLINGS.values())), max_tokens=st.integers(1, 20), seed=st.integers(0, 2**63)
)


@settings(max_examples=150, deadline=None)
@given(
    spec=specs,
    policy=policies,
    law=st.integers(0, 50),
    local=st.sampled_from([None, None, 0.0, 0.5]),
    company=st.lists(newcomers, max_size=6),
    order=st.lists(st.integers(0, 99), max_size=60),
    then=st.integers(0, 99),
)
def test_any_order_of_events_any_company_any_sampling(
    spec: SessionSpec,
    policy: Policy,
    law: int,
    local: float | None,
    company: list[Newcomer],
    order: list[int],
    then: int,
) -> None:
    scene = Scene(spec, policy, chosen(order, seeded(then)), law=law, local=local)
    drive, honest = scene.drive, []
    for lane, newcomer in enumerate(sorted(company, key=lambda newcomer: newcomer.after)):
        drive.run(until=partial(drive.has_seen, newcomer.after))
        if drive.finished is not None:
            break
        drive.leave(newcomer.name)
        peer = newcomer.peer(scene)
        drive.join(newcomer.name, peer, copies=newcomer.copies, delay=newcomer.delay, replay=newcomer.replay, lane=lane)
        if isinstance(peer, HonestPeer):
            honest.append((peer, newcomer.context))
    scene.finish()
    longest = len(spec.prompt) + spec.max_tokens
    for peer, context in honest:
        outgrown = peer.abandoned == "the answer has outgrown the drafter's context" and context < longest
        assert peer.abandoned is None or outgrown
