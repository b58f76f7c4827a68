from __future__ import annotations

import msgspec
import pytest

from wanspec_p2p.protocol.checks import check
from wanspec_p2p.protocol.common_messages import ControlMessage, DraftLinkMessage, Ping
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.protocol.node_to_target import Draft
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts, TokenLogprob, Tokens
from wanspec_p2p.protocol.target_to_node import Open, Outlook, Verdict, Window
from wanspec_p2p.types import PeerId, Sampling


def _draft(**fields: tuple[int, ...]) -> Draft:
    return Draft(session=1, base_len=0, base_hash=bytes(8), **fields)


def _open(**fields: int) -> Open:
    return Open(1, "s", (1, 2), fields.pop("prompt_len", 2), bytes(16), Sampling(), (), Window(8, 8), **fields)


def _landmarks(*targets: str) -> Landmarks:
    return Landmarks(tuple(Landmark(PeerId(name * 32), "wss://gpu.example") for name in targets))


def _generate(**fields: object) -> Generate:
    return Generate(request="r", seed=bytes(16), sampling=Sampling(), **fields)  # type: ignore[arg-type]  # by the cases


def _tokens(**fields: object) -> Tokens:
    given = {"ids": (1, 2), "text": "", "origins": (None, None)} | fields
    return Tokens(request="r", position=0, **given)  # type: ignore[arg-type]  # by the cases


def _receipts(*by_depth: tuple[int, int]) -> Receipts:
    plain = Receipt("r", PeerId("n" * 32), "j", "s", drafted=9, verified=8, accepted=5, won=4)
    return Receipts("b", (plain, msgspec.structs.replace(plain, by_depth=by_depth)))


def _boast(verified: int, accepted: int, won: int = 0) -> Receipts:
    return Receipts("b", (Receipt("r", PeerId("n" * 32), "j", "s", 9, verified, accepted, won),))


def _telling(*outlook: tuple[int, ...]) -> Verdict:
    return Verdict(1, 2, (1, 2), bytes(8), None, Outlook(*outlook))


CHAT = (ChatMessage(role="user", content="hi"),)
LOGPROB = TokenLogprob(token=1, text="a", logprob=-1.0)


@pytest.mark.parametrize(
    "message",
    [
        Ping(id=1, at=0.0),
        _draft(tokens=(5, 6, 7)),
        _draft(tokens=(5, 6, 7), parents=(-1, -1, 0), confidences=(1, 2, 3)),
        _draft(tokens=(5, 6, 7), parents=(-1, -2, 1), bases=((3, bytes(8)),)),
        _open(lane=1, lanes=2),
        _open(prompt_len=0),
        Verdict(1, 2, (1, 2), bytes(8), Window(0, 0)),
        Verdict(1, 2, (1, 2), bytes(8), None, Outlook((5, 6, 7), (), (1, 2, 3))),
        Verdict(1, 2, (1, 2), bytes(8), None, Outlook((5, 6, 7), (-1, -1, 1), (1, 2, 3))),
        _generate(messages=CHAT),
        _generate(prompt=""),
        _generate(prompt_ids=(1,)),
        _landmarks("t", "u"),
        _tokens(),
        _tokens(logprobs=(LOGPROB, LOGPROB)),
        _receipts(),
        _boast(verified=9, accepted=9, won=9),
        _boast(verified=0, accepted=0, won=9),
        _receipts((4, 4), (0, 0), (4, 1)),
    ],
)
def test_what_agrees_passes(message: ControlMessage | DraftLinkMessage) -> None:
    assert check(message) is None


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (_draft(tokens=(5, 6), parents=(-1,)), "parents has 1 entries for 2 tokens"),
        (_draft(tokens=(5, 6), confidences=(1, 2, 3)), "confidences has 3 entries for 2 tokens"),
        (_draft(tokens=(5, 6), parents=(0, 0)), "parents names a token that does not come before its child"),
        (_draft(tokens=(5, 6), parents=(-1, 1)), "parents names a token that does not come before its child"),
        (_draft(tokens=(5, 6), parents=(-1, -2)), "parents names a base that is not there"),
        (_draft(tokens=(5, 6), parents=(-3, -2), bases=((3, bytes(8)),)), "parents names a base that is not there"),
        (_open(prompt_len=3), "prompt_len is longer than prefix"),
        (_open(lane=2, lanes=2), "lane is not one of lanes"),
        (Verdict(1, 1, (1, 2), bytes(8), Window(0, 0)), "tail is longer than committed_len"),
        (_telling((5, 6), (-1,), (1, 2)), "outlook.parents has 1 entries for 2 tokens"),
        (_telling((5, 6), (-1, 1), (1, 2)), "outlook.parents names a token that does not come before its child"),
        (_telling((5, 6), (), (1,)), "outlook.confidences has 1 entries for 2 tokens"),
        (_generate(), "exactly one of messages, prompt and prompt_ids must be given"),
        (_generate(prompt="", prompt_ids=(1,)), "exactly one of messages, prompt and prompt_ids must be given"),
        (_generate(messages=CHAT, prompt="x"), "exactly one of messages, prompt and prompt_ids must be given"),
        (_landmarks("t", "u", "t"), "landmarks names a target twice"),
        (_tokens(origins=(None,)), "origins has 1 entries for 2 ids"),
        (_tokens(logprobs=(LOGPROB,)), "logprobs has 1 entries for 2 ids"),
        (_boast(verified=8, accepted=9), "accepted is more than verified"),
        (_boast(verified=10, accepted=9), "verified is more than drafted"),
        (_boast(verified=9, accepted=9, won=10), "won is more than drafted"),
        (_receipts((3, 3), (1, 2)), "by_depth has more right positions than were reached"),
        (_receipts((5, 3), (4, 1)), "by_depth has more positions than verified tokens"),
        (_receipts((4, 4), (4, 2)), "by_depth has more right positions than accepted tokens"),
    ],
)
def test_a_contradiction_is_named(message: ControlMessage | DraftLinkMessage, fault: str) -> None:
    assert check(message) == fault
