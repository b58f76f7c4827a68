"""Frames to messages and back: the one door through which a stranger's bytes come in.

Control messages travel as JSON text frames, draft messages as MessagePack arrays in binary frames (their handshake,
pings and goodbyes stay JSON text). Whatever a peer sends, `decode` returns a message within its bounds or raises
`RemoteProtocolError` with the message type and the field at fault. It never repeats what the peer sent: reasons go
into logs and close frames, and prompts and secrets do not belong there.
"""

from __future__ import annotations

import re
import typing
from typing import Any, Generic, TypeVar

import msgspec

from wanspec_p2p.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.checks import check
from wanspec_p2p.protocol.common_messages import CommonMessage, ControlMessage, DraftLinkMessage, Version
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import TargetMessage
from wanspec_p2p.protocol.target_to_node import TargetToNode

__all__ = [
    "AT_COORDINATOR_FROM_NODE",
    "AT_COORDINATOR_FROM_TARGET",
    "AT_NODE_FROM_COORDINATOR",
    "AT_NODE_FROM_TARGET",
    "AT_TARGET_FROM_COORDINATOR",
    "AT_TARGET_FROM_NODE",
    "Codec",
    "version_mismatch",
]

In = TypeVar("In", bound=ControlMessage | DraftLinkMessage)

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)


class _TextPeek(msgspec.Struct):
    """What can be learnt from a text frame that is no message of ours."""

    type: str = ""
    version: Version | None = None


class _BinaryPeek(msgspec.Struct, array_like=True):
    tag: int


class Codec(Generic[In]):
    """Encode what we send and decode what one kind of peer sends on one kind of link.

    Args:
        text: union of the messages that may arrive in text frames.
        binary: union of those that may arrive in binary frames; None where there are none.
    """

    # `object`: a union of types is a value that no annotation of Python 3.11 can name.
    def __init__(self, text: object, binary: object = None) -> None:
        self._text: msgspec.json.Decoder[Any] = msgspec.json.Decoder(text)
        self._binary: msgspec.msgpack.Decoder[Any] | None = None if binary is None else msgspec.msgpack.Decoder(binary)
        self._by_name = _kinds(text)
        self._by_number = _kinds(binary)
        self._packer = msgspec.msgpack.Encoder()

    def encode(self, message: ControlMessage | DraftLinkMessage) -> str | bytes:
        """One frame.

        Raises:
            LocalProtocolError: the message contradicts itself, or is longer than a frame may be.
        """
        if (fault := check(message)) is not None:
            raise LocalProtocolError(f"{type(message).__name__}: {fault}")
        data = self._packer.encode(message) if isinstance(message, DraftLinkMessage) else msgspec.json.encode(message)
        if len(data) > limits.MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"{type(message).__name__} of {len(data)} bytes: a frame has at most {limits.MAX_FRAME_BYTES}"
            )
        return data if isinstance(message, DraftLinkMessage) else data.decode()

    def decode(self, frame: str | bytes) -> In | CommonMessage:
        """One message, within its bounds.

        Raises:
            RemoteProtocolError: INVALID_DATA for a frame that is no message of this link, PROTOCOL_ERROR for a
                message that contradicts itself, MESSAGE_TOO_BIG, or VERSION_MISMATCH for another version's Hello.
        """
        if len(frame) > limits.MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame has at most {limits.MAX_FRAME_BYTES} bytes", CloseCode.MESSAGE_TOO_BIG)
        message: In | CommonMessage
        try:
            if isinstance(frame, str):
                message = self._text.decode(frame)
            elif self._binary is not None:
                message = self._binary.decode(frame)
            else:
                raise _invalid("binary frame", "this link carries text frames only")
        except _DECODE_ERRORS as error:
            raise self._explain(frame, error) from error
        if (fault := check(message)) is not None:
            raise RemoteProtocolError(f"{type(message).__name__}: {fault}")
        return message

    def _explain(self, frame: str | bytes, error: Exception) -> RemoteProtocolError:
        if isinstance(frame, bytes):
            kind = self._by_number.get(_peek_number(frame))
            return _invalid("binary frame" if kind is None else kind.__name__, _fault(error, kind))
        peek = _peek_text(frame)
        if peek.type in ("hello", "challenge") and peek.version not in (None, limits.PROTOCOL_VERSION):
            return version_mismatch(peek.version)  # a newer Hello may well have fields we do not know
        kind = self._by_name.get(peek.type)
        return _invalid("text frame" if kind is None else kind.__name__, _fault(error))


def version_mismatch(theirs: int | None) -> RemoteProtocolError:
    """For a peer of another protocol version; tells both operators which side is the older."""
    return RemoteProtocolError(
        f"this side speaks protocol version {limits.PROTOCOL_VERSION}, the peer version {theirs}: "
        "upgrade the older of the two",
        CloseCode.VERSION_MISMATCH,
    )


def _invalid(what: str, fault: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{what}: {fault}", CloseCode.INVALID_DATA)


def _kinds(union: object) -> dict[Any, type]:
    return {kind.__struct_config__.tag: kind for kind in typing.get_args(union)}


def _peek_text(frame: str) -> _TextPeek:
    try:
        return msgspec.json.decode(frame, type=_TextPeek)
    except _DECODE_ERRORS:
        return _TextPeek()


def _peek_number(frame: bytes) -> int | None:
    try:
        return msgspec.msgpack.decode(frame, type=_BinaryPeek).tag
    except _DECODE_ERRORS:
        return None


def _fault(error: Exception, kind: type | None = None) -> str:
    """msgspec's complaint without anything the peer wrote: only texts made from our own types are passed on."""
    text, _, where = str(error).partition(" - at ")
    if not isinstance(error, msgspec.ValidationError):
        return "not well-formed"
    if not text.startswith(("Expected `", "Object missing required field", "Number out of range")):
        text = next((words for start, words in _COMPLAINTS.items() if text.startswith(start)), "value out of range")
    if kind is not None:
        where = re.sub(r"\$\[(\d+)\]", lambda found: f"$.{_field_name(kind, int(found[1]))}", where, count=1)
    return f"{text} at {where}" if where else text


_COMPLAINTS = {
    "Object contains unknown field": "unknown field",
    "Invalid enum value": "unknown value",
    "Invalid value": "unknown message type",
}


def _field_name(kind: type, index: int) -> str:
    """Arrays have no field names; the first element is the tag."""
    names = ("tag", *(field.name for field in msgspec.structs.fields(kind)))
    return names[index] if index < len(names) else f"[{index}]"


AT_COORDINATOR_FROM_NODE: Codec[NodeMessage] = Codec(NodeMessage)
AT_COORDINATOR_FROM_TARGET: Codec[TargetMessage] = Codec(TargetMessage)
AT_NODE_FROM_COORDINATOR: Codec[CoordinatorToNode] = Codec(CoordinatorToNode)
AT_TARGET_FROM_COORDINATOR: Codec[CoordinatorToTarget] = Codec(CoordinatorToTarget)
AT_TARGET_FROM_NODE: Codec[NodeToTarget] = Codec(CommonMessage, NodeToTarget)
"""Draft link, at the target."""
AT_NODE_FROM_TARGET: Codec[TargetToNode] = Codec(CommonMessage, TargetToNode)
"""Draft link, at the node."""
