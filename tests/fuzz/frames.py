"""Frames that are nearly right: random messages of one union, and what becomes of them in bad hands. Seeded.

A generator per type is made once from the type itself, so that a new field or message is fuzzed the day it exists.
`Lore` is what gives the frames meaning: session numbers, hashes, names and ids that were really seen on the link.
"""

from __future__ import annotations

import random
import typing
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

from wanspec_p2p.protocol.common_messages import (
    Challenge,
    DraftLinkMessage,
    Enrol,
    Goodbye,
    Hello,
    Proof,
    Registered,
    Welcome,
)
from wanspec_p2p.protocol.node_to_coordinator import RegisterNode
from wanspec_p2p.protocol.node_to_target import Attach, Detach
from wanspec_p2p.protocol.target_to_coordinator import RegisterTarget

__all__ = ["Frames", "Lore"]

Make = Callable[[random.Random, "Lore"], Any]
JUNK = (
    b"",
    "",
    "{}",
    "[]",
    "null",
    b"\xc1",
    b"\x90",
    b"\xdd\xff\xff\xff\xff",
    "[" * 2000,
    b"\x91" * 2000,
    '{"type":1}',
)
WEIRD = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**53,
    2**63,
    2**64 - 1,
    1e308,
    -0.5,
    "",
    "x" * 600,
    "\x00",
    b"",
    b"\xff" * 9,
    [],
    {},
)
HEX, BASE32 = "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz234567"
FEW = 5
"""Items of most lists: long ones are slow to make, and say nothing that the bounds' own tests do not."""

_LAST = {Attach, Hello, Challenge, Proof, Welcome, Goodbye, Enrol, RegisterNode, RegisterTarget, Detach, Registered}
"""After these a link that is up has little left to say."""


class Lore:
    """The last values of each type that were seen on a link."""

    def __init__(self) -> None:
        self._seen: dict[type, deque[Any]] = {kind: deque(maxlen=64) for kind in (int, str, bytes)}

    def learn(self, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for item in value[:8]:
                self.learn(item)
        elif isinstance(value, dict):
            self.learn(list(value.values()))
        elif type(value) in self._seen:
            self._seen[type(value)].append(value)

    def recall(self, rng: random.Random, kind: type) -> Any:
        """None half of the time, and where nothing of the kind was seen."""
        seen = self._seen[kind]
        return rng.choice(seen) if seen and rng.random() < 0.5 else None


class Frames:
    """Args:
    unions: of the messages one side may send on one kind of link.
    """

    def __init__(self, *unions: Any) -> None:
        self._kinds = [kind for union in unions for kind in typing.get_args(union)]
        self._quiet = [kind for kind in self._kinds if kind not in _LAST]
        self._makers = {kind: _maker(inspect.type_info(kind)) for kind in self._kinds}
        self._sent: deque[str | bytes] = deque(maxlen=64)

    def next(self, rng: random.Random, lore: Lore, care: float = 0.0) -> str | bytes:
        """Of those without `care`, three in ten are valid, four have one place changed; the rest is repeated, cut,
        flipped or junk. A link ends with the first frame at fault: `care` (0 to 1) is for getting further than that.
        """
        way = 1.0 if rng.random() < care else rng.random()
        if way < 0.05:
            return rng.choice(JUNK)
        if way < 0.15 and self._sent:
            return rng.choice(self._sent)
        kind = rng.choice(self._quiet if care else self._kinds)
        fields = self._makers[kind](rng, lore)
        if way < 0.55:
            _change(rng, fields)
        binary = issubclass(kind, DraftLinkMessage)
        frame = msgspec.msgpack.encode(fields) if binary else msgspec.json.encode(fields)
        if way < 0.7:
            frame = _spoiled(rng, frame)
        self._sent.append(frame if binary else frame.decode(errors="replace"))
        return self._sent[-1]


def _change(rng: random.Random, fields: Any) -> None:
    """One place, anywhere in it: another value, or none."""
    while fields:
        places = list(fields) if isinstance(fields, dict) else list(range(len(fields)))
        place = rng.choice(places)
        if isinstance(fields[place], (list, dict)) and fields[place] and rng.random() < 0.7:
            fields = fields[place]
        elif rng.random() < 0.2:
            del fields[place]
            return
        else:
            fields[place] = rng.choice(WEIRD)
            return


def _spoiled(rng: random.Random, frame: bytes) -> bytes:
    at = rng.randrange(len(frame))
    match rng.randrange(4):
        case 0:
            return frame[:at]
        case 1:
            return frame[:at] + bytes([rng.randrange(256)]) + frame[at + 1 :]
        case 2:
            return frame + frame[:at]
        case _:
            return frame[:at] + rng.randbytes(rng.randrange(1, 9)) + frame[at:]


# Makers ----------------------------------------------------------------------------------------------------------


def _maker(info: inspect.Type) -> Make:
    for kind, make in _MAKERS.items():
        if isinstance(info, kind):
            return make(info)
    raise TypeError(f"nobody has told the fuzzer how to make a {info}")


def _struct(info: inspect.StructType) -> Make:
    makers = [(field.encode_name, _maker(field.type)) for field in info.fields]
    if info.array_like:
        head = [] if info.tag is None else [info.tag]
        return lambda rng, lore: [*head, *(make(rng, lore) for _, make in makers)]
    tag = {} if info.tag is None else {info.tag_field: info.tag}
    return lambda rng, lore: tag | {name: make(rng, lore) for name, make in makers}


def _int(info: inspect.IntType) -> Make:
    low = info.ge if info.ge is not None else -(2**40) if info.gt is None else info.gt + 1
    high = info.le if info.le is not None else 2**40 if info.lt is None else info.lt - 1

    def make(rng: random.Random, lore: Lore) -> int:
        known = lore.recall(rng, int)
        if known is not None and low <= known <= high:
            return int(known)
        return rng.choice((low, high, min(max(rng.randrange(-2, 70), low), high), rng.randint(low, high)))

    return make


def _float(info: inspect.FloatType) -> Make:
    return lambda rng, lore: rng.choice((0.0, 1.0, 0.5, 1e6, rng.random() * 100))


def _str(info: inspect.StrType) -> Make:
    least, most = info.min_length or 0, min(info.max_length or 64, 64)

    def make(rng: random.Random, lore: Lore) -> str:
        if info.pattern is None:
            known = lore.recall(rng, str)
            return (
                known
                if known is not None and least <= len(known) <= most
                else "é" * rng.randint(least, max(most, least))
            )
        if "wss" in info.pattern:
            return rng.choice(("ws://127.0.0.1:1/wanspec/draft", "wss://nowhere.invalid/x", "ws://[", "wss://:99999"))
        letters = BASE32 if "a-z" in info.pattern else HEX
        known = lore.recall(rng, str)
        if known is not None and len(known) == least and set(known) <= set(letters):
            return str(known)
        return "".join(rng.choices(letters, k=least or 32))

    return make


def _bytes(info: inspect.BytesType) -> Make:
    least, most = info.min_length or 0, min(info.max_length or 32, 64)

    def make(rng: random.Random, lore: Lore) -> bytes:
        known = lore.recall(rng, bytes)
        return known if known is not None and least <= len(known) <= most else rng.randbytes(rng.randint(least, most))

    return make


def _list(info: Any) -> Make:
    make = _maker(info.item_type)
    least, most = info.min_length or 0, info.max_length or FEW

    def items(rng: random.Random, lore: Lore) -> list[Any]:
        count = min(most, 70) if rng.random() < 0.02 else rng.randint(least, max(least, min(most, FEW)))
        return [make(rng, lore) for _ in range(count)]

    return items


def _tuple(info: inspect.TupleType) -> Make:
    makers = [_maker(item) for item in info.item_types]
    return lambda rng, lore: [make(rng, lore) for make in makers]


def _union(info: inspect.UnionType) -> Make:
    makers = [_maker(kind) for kind in info.types]
    return lambda rng, lore: rng.choice(makers)(rng, lore)


def _dict(info: inspect.DictType) -> Make:
    key, value = _maker(info.key_type), _maker(info.value_type)
    return lambda rng, lore: {key(rng, lore): value(rng, lore) for _ in range(rng.randrange(3))}


_MAKERS: dict[type, Callable[[Any], Make]] = {
    inspect.StructType: _struct,
    inspect.IntType: _int,
    inspect.FloatType: _float,
    inspect.StrType: _str,
    inspect.BytesType: _bytes,
    inspect.BoolType: lambda info: lambda rng, lore: rng.random() < 0.5,
    inspect.NoneType: lambda info: lambda rng, lore: None,
    inspect.VarTupleType: _list,
    inspect.ListType: _list,
    inspect.TupleType: _tuple,
    inspect.UnionType: _union,
    inspect.DictType: _dict,
    inspect.LiteralType: lambda info: lambda rng, lore: rng.choice(info.values),
    inspect.EnumType: lambda info: lambda rng, lore: rng.choice([member.value for member in info.cls]),
}
