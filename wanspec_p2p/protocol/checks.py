"""What the type of a field cannot say: how the fields of one message must agree with each other.

Run on everything decoded and on everything encoded, so that our own contradictions show here and not at the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wanspec_p2p.protocol.coordinator_to_node import Landmarks
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.node_to_target import Draft
from wanspec_p2p.protocol.target_to_coordinator import Receipts, Tokens
from wanspec_p2p.protocol.target_to_node import Open, Outlook, Verdict

__all__ = ["check"]


def check(message: object) -> str | None:
    """What is contradictory in a message, with the field's name first; None where nothing is."""
    rule = _RULES.get(type(message))
    return None if rule is None else rule(message)


def _draft(message: Draft) -> str | None:
    count = len(message.tokens)
    if len(message.base_hash) not in (0, 8):
        return f"base_hash has {len(message.base_hash)} bytes, not 8 or none"
    if len(message.parents) not in (0, count):
        return f"parents has {len(message.parents)} entries for {count} tokens"
    if len(message.confidences) not in (0, count):
        return f"confidences has {len(message.confidences)} entries for {count} tokens"
    if any(parent >= i for i, parent in enumerate(message.parents)):
        return "parents names a token that does not come before its child"
    if any(parent < -1 - len(message.bases) for parent in message.parents):
        return "parents names a base that is not there"
    return None


def _open(message: Open) -> str | None:
    if message.prompt_len > len(message.prefix):
        return "prompt_len is longer than prefix"
    if message.lane >= message.lanes:
        return "lane is not one of lanes"
    return None


def _verdict(message: Verdict) -> str | None:
    if len(message.tail) > message.committed_len:
        return "tail is longer than committed_len"
    return None if message.outlook is None else _outlook(message.outlook)


def _outlook(outlook: Outlook) -> str | None:
    count = len(outlook.tokens)
    if len(outlook.parents) not in (0, count):
        return f"outlook.parents has {len(outlook.parents)} entries for {count} tokens"
    if len(outlook.confidences) != count:
        return f"outlook.confidences has {len(outlook.confidences)} entries for {count} tokens"
    if any(parent >= i for i, parent in enumerate(outlook.parents)):
        return "outlook.parents names a token that does not come before its child"
    return None


def _landmarks(message: Landmarks) -> str | None:
    twice = len({landmark.target for landmark in message.landmarks}) < len(message.landmarks)
    return "landmarks names a target twice" if twice else None


def _generate(message: Generate) -> str | None:
    given = bool(message.messages) + (message.prompt is not None) + bool(message.prompt_ids)
    return None if given == 1 else "exactly one of messages, prompt and prompt_ids must be given"


def _tokens(message: Tokens) -> str | None:
    count = len(message.ids)
    if len(message.origins) != count:
        return f"origins has {len(message.origins)} entries for {count} ids"
    if len(message.logprobs) not in (0, count):
        return f"logprobs has {len(message.logprobs)} entries for {count} ids"
    return None


def _receipts(message: Receipts) -> str | None:
    for receipt in message.receipts:
        if receipt.verified > receipt.drafted:
            return "verified is more than drafted"
        if receipt.won > receipt.drafted:  # not accepted: who began anew is still first with what others drafted too
            return "won is more than drafted"
        if receipt.accepted > receipt.verified:
            return "accepted is more than verified"
        if any(right > reached for reached, right in receipt.by_depth):
            return "by_depth has more right positions than were reached"
        if sum(reached for reached, _ in receipt.by_depth) > receipt.verified:
            return "by_depth has more positions than verified tokens"
        if sum(right for _, right in receipt.by_depth) > receipt.accepted:
            return "by_depth has more right positions than accepted tokens"
    return None


_RULES: dict[type, Callable[[Any], str | None]] = {
    Draft: _draft,
    Open: _open,
    Verdict: _verdict,
    Landmarks: _landmarks,
    Generate: _generate,
    Tokens: _tokens,
    Receipts: _receipts,
}
