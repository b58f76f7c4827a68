"""A short run of the fuzzer, and that it would notice."""

from __future__ import annotations

import random

import pytest

from coordinator.answers import Answers
from node.link_sessions import LinkSessions
from tests.fuzz.__main__ import main
from tests.fuzz.frames import Frames, Lore
from tests.fuzz.run import KINDS, Find, chunk
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.common_messages import CommonMessage
from wanspec_p2p.protocol.node_to_target import Draft, NodeToTarget
from wanspec_p2p.target.draft_link import DraftLink


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_frames_cost_nobody_anything(kind: str) -> None:
    assert chunk(kind, seed=1, number=0, inputs=150).inputs == 150


def test_the_same_seed_throws_the_same_frames() -> None:
    first, second = (
        [frames.next(rng, Lore()) for _ in range(200)]
        for frames, rng in ((Frames(NodeToTarget), random.Random(5)) for _ in range(2))
    )
    assert first == second


def test_what_is_said_with_care_is_a_message_and_uses_what_was_seen() -> None:
    lore = Lore()
    lore.learn({"session": 777, "hash": b"8 bytes!"})
    frames, rng = Frames(CommonMessage, NodeToTarget), random.Random(1)
    drafts: list[Draft] = []
    while len(drafts) < 20:
        frame = frames.next(rng, lore, care=1.0)
        if isinstance(frame, bytes) and frame[1] == 2:  # the tag of Draft; its fields may still contradict each other
            try:
                drafts.append(AT_TARGET_FROM_NODE.decode(frame))  # type: ignore[arg-type]  # one of the union
            except Exception:
                continue
    assert any(draft.session == 777 for draft in drafts)
    assert any(draft.base_hash == b"8 bytes!" for draft in drafts)


@pytest.mark.parametrize(
    ("kind", "where", "what"),
    [
        ("target-from-node", DraftLink, "_draft"),
        ("node-from-target", LinkSessions, "handle"),
        ("coordinator-from-target", Answers, "tokens"),
    ],
)
def test_a_fault_of_ours_is_found_and_can_be_seen_again(
    kind: str, where: type, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("a planted fault")

    monkeypatch.setattr(where, what, fail)
    with pytest.raises(Find, match=f"once more: python -m tests.fuzz --kind {kind} --seed 1") as found:
        for number in range(20):
            chunk(kind, 1, number, 300)
    said = str(found.value).split()
    with pytest.raises(Find):
        chunk(kind, 1, int(said[said.index("--first") + 1]), 300)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kind", "codecs", "--kind", "handshake", "--chunks", "1", "--size", "50", "--seed", "4"]) == 0
    said = capsys.readouterr().out
    assert "codecs: 50 inputs" in said
    assert "100 inputs, seed 4" in said
