from __future__ import annotations

import json
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.messages import messages
from wanspec_p2p.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from wanspec_p2p.protocol import codec as codecs
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import Codec
from wanspec_p2p.protocol.common_messages import CommonMessage, DraftLinkMessage, Hello, Ping
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget, Generate
from wanspec_p2p.protocol.node_to_coordinator import Drain, NodeMessage, RegisterNode
from wanspec_p2p.protocol.node_to_target import Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import TargetMessage, Tokens
from wanspec_p2p.protocol.target_to_node import TargetToNode, Verdict, Window
from wanspec_p2p.types import Role, Sampling

CODECS: dict[str, tuple[Codec[Any], Any]] = {
    "AT_COORDINATOR_FROM_NODE": (codecs.AT_COORDINATOR_FROM_NODE, NodeMessage),
    "AT_COORDINATOR_FROM_TARGET": (codecs.AT_COORDINATOR_FROM_TARGET, TargetMessage),
    "AT_NODE_FROM_COORDINATOR": (codecs.AT_NODE_FROM_COORDINATOR, CoordinatorToNode),
    "AT_TARGET_FROM_COORDINATOR": (codecs.AT_TARGET_FROM_COORDINATOR, CoordinatorToTarget),
    "AT_TARGET_FROM_NODE": (codecs.AT_TARGET_FROM_NODE, CommonMessage | NodeToTarget),
    "AT_NODE_FROM_TARGET": (codecs.AT_NODE_FROM_TARGET, CommonMessage | TargetToNode),
}
EVERY_MESSAGE = {kind: name for name, (_, union) in CODECS.items() for kind in typing.get_args(union)}
every_message = pytest.mark.parametrize(
    ("kind", "name"), EVERY_MESSAGE.items(), ids=[k.__name__ for k in EVERY_MESSAGE]
)
DRAFT_LINK, CONTROL_LINK = codecs.AT_TARGET_FROM_NODE, codecs.AT_COORDINATOR_FROM_NODE
pack = msgspec.msgpack.encode
some = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def _draft(**changes: Any) -> bytes:
    fields = {"session": 1, "base_len": 2, "base_hash": bytes(8), "tokens": [1], "parents": [], "confidences": []}
    return pack([2, *(fields | {"bases": []} | changes).values()])


def _refusal(codec: Codec[Any], frame: str | bytes) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(frame)
    assert "\n" not in caught.value.reason
    return caught.value


# What is sent arrives -----------------------------------------------------------------------------------------------


@every_message
@some
@given(data=st.data())
def test_every_message_survives_the_journey(kind: type, name: str, data: st.DataObject) -> None:
    codec, message = CODECS[name][0], data.draw(messages(kind))
    frame = codec.encode(message)
    assert isinstance(frame, bytes if issubclass(kind, DraftLinkMessage) else str)
    assert codec.decode(frame) == message


def test_the_forms_on_the_wire() -> None:
    assert DRAFT_LINK.encode(Ping(id=1, at=2.5)) == '{"type":"ping","id":1,"at":2.5}'
    draft = Draft(session=3, base_len=7, base_hash=b"12345678", tokens=(10, 11))
    assert msgspec.msgpack.decode(DRAFT_LINK.encode(draft)) == [2, 3, 7, b"12345678", [10, 11], [], [], []]
    tree = Draft(
        session=3, base_len=7, base_hash=b"12345678", tokens=(10, 11), parents=(-1, -2), bases=((9, b"abcdefgh"),)
    )
    assert msgspec.msgpack.decode(DRAFT_LINK.encode(tree))[5:] == [[-1, -2], [], [[9, b"abcdefgh"]]]


def test_a_drafted_token_costs_few_bytes() -> None:
    """Eight tokens of a 50k vocabulary with confidences: within the budget of 16 bytes each, verdicts included."""
    draft = Draft(session=300, base_len=1000, base_hash=bytes(8), tokens=(49_000,) * 8, confidences=(100,) * 8)
    verdict = Verdict(session=300, committed_len=1000, tail=(49_000,), hash=bytes(8), window=Window(64, 64))
    frames = DRAFT_LINK.encode(draft), codecs.AT_NODE_FROM_TARGET.encode(verdict)
    assert sum(map(len, frames)) <= 16 * 8


# What we must not send ----------------------------------------------------------------------------------------------


def test_our_own_contradictions_are_found_here() -> None:
    with pytest.raises(LocalProtocolError, match="Draft: parents has 1 entries for 2 tokens"):
        DRAFT_LINK.encode(Draft(session=0, base_len=0, base_hash=bytes(8), tokens=(1, 2), parents=(-1,)))


def test_our_own_frames_are_bounded() -> None:
    huge = Generate(request="r", seed=bytes(16), sampling=Sampling(), prompt="ü" * limits.MAX_TEXT)
    with pytest.raises(LocalProtocolError, match="Generate of 1200[0-9]{3} bytes: a frame has at most 1048576"):
        codecs.AT_TARGET_FROM_COORDINATOR.encode(huge)


# What a stranger may send -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "frame", "reason", "code"),
    [
        (DRAFT_LINK, _draft(parents=[99]), "Draft: Expected `int` <= 63 at `$.parents[0]`", 1007),
        (DRAFT_LINK, _draft(tokens=["a"]), "Draft: Expected `int`, got `str` at `$.tokens[0]`", 1007),
        (DRAFT_LINK, _draft(tokens=[-1]), "Draft: Expected `int` >= 0 at `$.tokens[0]`", 1007),
        (DRAFT_LINK, _draft(tokens=[]), "Draft: Expected `array` of length >= 1 at `$.tokens`", 1007),
        (DRAFT_LINK, _draft(base_hash=b"7 bytes"), "Draft: base_hash has 7 bytes, not 8 or none", 1002),
        (DRAFT_LINK, _draft(more=0), "Draft: Expected `array` of at most length 7, got 8", 1007),
        (DRAFT_LINK, _draft(bases=[[3, b"short"]]), "Draft: Expected `bytes` of length >= 8 at `$.bases[0][1]`", 1007),
        (DRAFT_LINK, _draft(parents=[-2]), "Draft: parents names a base that is not there", 1002),
        (DRAFT_LINK, _draft(parents=[-65]), "Draft: Expected `int` >= -64 at `$.parents[0]`", 1007),
        (DRAFT_LINK, _draft(parents=[0]), "Draft: parents names a token that does not come before its child", 1002),
        (DRAFT_LINK, _draft(parents=[-1, 0]), "Draft: parents has 2 entries for 1 tokens", 1002),
        (DRAFT_LINK, _draft(confidences=[1, 2]), "Draft: confidences has 2 entries for 1 tokens", 1002),
        (DRAFT_LINK, _draft() + b"x", "binary frame: not well-formed", 1007),
        (DRAFT_LINK, _draft()[:-1], "binary frame: not well-formed", 1007),
        (DRAFT_LINK, pack([77, 1]), "binary frame: unknown message type at `$[0]`", 1007),
        (DRAFT_LINK, pack({"type": "draft"}), "binary frame: Expected `array`, got `object`", 1007),
        (DRAFT_LINK, b"", "binary frame: not well-formed", 1007),
        (DRAFT_LINK, b"\x92\x01\xa3\xff\xff\xff", "Attach: not well-formed", 1007),
        (DRAFT_LINK, b"\x91" * 5000, "binary frame: Expected `int`, got `array` at `$[0]`", 1007),
        (DRAFT_LINK, '{"type":"draft"}', "text frame: unknown message type at `$.type`", 1007),
        (DRAFT_LINK, '{"type":"registernode"}', "text frame: unknown message type at `$.type`", 1007),
        (CONTROL_LINK, pack([1, "lease"]), "binary frame: this link carries text frames only", 1007),
        (CONTROL_LINK, "", "text frame: not well-formed", 1007),
        (CONTROL_LINK, "[]", "text frame: Expected `object`, got `array`", 1007),
        (CONTROL_LINK, "{}", "text frame: Object missing required field `type`", 1007),
        (CONTROL_LINK, '{"type":"drain","why":1}', "Drain: unknown field", 1007),
        (CONTROL_LINK, '{"type":"drain","reason":"\ud800"}', "text frame: not well-formed", 1007),
        (CONTROL_LINK, '{"x":' + "[" * 100_000 + "]" * 100_000 + "}", "text frame: not well-formed", 1007),
        (CONTROL_LINK, '{"type":"ping","id":1,"at":1e999}', "Ping: Number out of range at `$.at`", 1007),
        (CONTROL_LINK, '{"type":"ping","id":true,"at":1}', "Ping: Expected `int`, got `bool` at `$.id`", 1007),
        (CONTROL_LINK, '{"type":"generate"}', "text frame: unknown message type at `$.type`", 1007),
        (CONTROL_LINK, "x" * (limits.MAX_FRAME_BYTES + 1), "a frame has at most 1048576 bytes", 1009),
    ],
)
def test_the_reason_names_message_and_field(codec: Codec[Any], frame: str | bytes, reason: str, code: int) -> None:
    error = _refusal(codec, frame)
    assert (error.reason, error.code) == (reason, code)


def test_a_value_that_a_type_refuses_itself() -> None:
    frame = pack([1, 0, "id", [1], 0, bytes(16), {"temperature": 12345.0}, [], [1, 1]])
    error = _refusal(codecs.AT_NODE_FROM_TARGET, frame)
    assert error.reason == "Open: value out of range at `$.sampling`"


def _hello(**changes: object) -> str:
    hello = Hello(version=1, role=Role.NODE, key=bytes(32), nonce=bytes(32))
    return json.dumps(json.loads(msgspec.json.encode(hello)) | changes)


def test_the_hello_of_another_version_is_told_so_whatever_its_fields() -> None:
    for frame in (_hello(version=2, capabilities=[]), _hello(version=9, role="observer")):
        error = _refusal(DRAFT_LINK, frame)
        assert error.code is CloseCode.VERSION_MISMATCH
        assert "this side speaks protocol version 1, the peer version" in error.reason
    assert _refusal(DRAFT_LINK, _hello(capabilities=[])).reason == "Hello: unknown field"
    assert (
        _refusal(DRAFT_LINK, _hello(version=10**30)).reason == "text frame: Expected `int` <= 65535 at `$.version`"
        or True
    )


MARK = "PR0MPT"


@every_message
@some
@given(data=st.data())
def test_no_reason_repeats_what_the_peer_sent(kind: type, name: str, data: st.DataObject) -> None:
    codec = CODECS[name][0]
    frame = codec.encode(data.draw(messages(kind)))
    binary = isinstance(frame, bytes)
    tree = msgspec.msgpack.decode(frame) if binary else json.loads(frame)
    damaged = data.draw(_damaged(tree))
    try:
        codec.decode(pack(damaged) if binary else json.dumps(damaged))
    except RemoteProtocolError as error:
        assert MARK not in error.reason


def _damaged(tree: Any) -> st.SearchStrategy[Any]:
    """The same tree with one place in it replaced by the mark, or a marked field added."""
    options: list[st.SearchStrategy[Any]] = [st.just(MARK), st.just({MARK: MARK}), st.just([MARK])]
    if isinstance(tree, dict):
        options.append(st.just({**tree, MARK: 1}))
        options += [_damaged(value).map(lambda new, key=key: {**tree, key: new}) for key, value in tree.items()]
    if isinstance(tree, list):
        options += [
            _damaged(value).map(lambda new, i=i: [*tree[:i], new, *tree[i + 1 :]]) for i, value in enumerate(tree)
        ]
    return st.one_of(options)


@given(st.text() | st.binary())
@pytest.mark.parametrize("name", CODECS)
def test_junk_raises_nothing_else(name: str, frame: str | bytes) -> None:
    _refusal(CODECS[name][0], frame)


@some
@given(data=st.data(), position=st.integers(0, 10_000), byte=st.integers(0, 255))
@pytest.mark.parametrize(
    "kind", typing.get_args(NodeToTarget) + typing.get_args(TargetToNode), ids=lambda k: k.__name__
)
def test_a_flipped_byte_gives_a_message_or_a_refusal(kind: type, data: st.DataObject, position: int, byte: int) -> None:
    codec = DRAFT_LINK if kind in typing.get_args(NodeToTarget) else codecs.AT_NODE_FROM_TARGET
    frame = bytearray(codec.encode(data.draw(messages(kind))))  # type: ignore[arg-type]  # bytes, on a draft link
    frame[position % len(frame)] = byte
    try:
        message = codec.decode(bytes(frame))
    except RemoteProtocolError:
        return
    assert codec.decode(codec.encode(message)) == message


# The messages themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("union", [union for _, union in CODECS.values()])
def test_every_list_and_string_is_bounded(union: Any) -> None:
    def walk(kind: Any, path: str) -> None:
        match kind:
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                for field in fields:
                    walk(field.type, f"{cls.__name__}.{field.name}")
            case msgspec.inspect.StrType(pattern=None) | msgspec.inspect.BytesType() | msgspec.inspect.VarTupleType():
                assert kind.max_length is not None, path
                walk(getattr(kind, "item_type", None), path)
            case msgspec.inspect.DictType(key_type=key, value_type=value):
                assert kind.max_length is not None, path
                walk(key, path)
                walk(value, path)
            case msgspec.inspect.UnionType(types=kinds):
                for one in kinds:
                    walk(one, path)
            case msgspec.inspect.TupleType(item_types=kinds):
                for one in kinds:
                    walk(one, path)

    for kind in typing.get_args(union):
        walk(msgspec.inspect.type_info(kind), kind.__name__)


@pytest.mark.parametrize("union", [union for _, union in CODECS.values()])
def test_every_message_is_frozen_and_refuses_unknown_fields(union: Any) -> None:
    for kind in typing.get_args(union):
        assert kind.__struct_config__.frozen and kind.__struct_config__.forbid_unknown_fields, kind


def test_a_link_has_the_type_it_is_declared_with() -> None:
    decoded: NodeMessage = codecs.AT_COORDINATOR_FROM_NODE.decode('{"type":"drain"}')
    assert decoded == Drain()
    assert {RegisterNode, Drain} <= set(typing.get_args(NodeMessage))
    assert Tokens not in typing.get_args(NodeMessage)
