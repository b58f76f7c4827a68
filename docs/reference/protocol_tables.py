"""The tables of protocol.md, read off the types, so that the page cannot say anything else than the code does.

Run `python -m docs.reference.protocol_tables` in the repository's root to bring the page up to date; a test asserts
that it is.
"""

from __future__ import annotations

import ast
import re
import typing
from pathlib import Path
from typing import Any

from msgspec import inspect

from wanspec_p2p.errors import CloseCode
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import CommonMessage
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_coordinator import TargetMessage
from wanspec_p2p.protocol.target_to_node import TargetToNode

PAGE = Path(__file__).with_name("protocol.md")

_DIRECTIONS: dict[str, Any] = {
    "Both ways, on every link (JSON text)": CommonMessage,
    "node → coordinator (JSON text)": NodeMessage,
    "coordinator → node (JSON text)": CoordinatorToNode,
    "target → coordinator (JSON text)": TargetMessage,
    "coordinator → target (JSON text)": CoordinatorToTarget,
    "node → target (MessagePack arrays)": NodeToTarget,
    "target → node (MessagePack arrays)": TargetToNode,
}

_CLOSE_CODES = {
    CloseCode.NORMAL: "An orderly end.",
    CloseCode.GOING_AWAY: "The peer stops or restarts, or gives up a silent link. Dial again.",
    CloseCode.PROTOCOL_ERROR: "A message out of turn, or one that contradicts itself.",
    CloseCode.INVALID_DATA: "A frame that is no message of this link; the reason names the message and the field.",
    CloseCode.POLICY_VIOLATION: "The peer may not do what it asked for.",
    CloseCode.MESSAGE_TOO_BIG: "A frame above `MAX_FRAME_BYTES`.",
    CloseCode.INTERNAL_ERROR: "A fault of the side that closes. Report it.",
    CloseCode.TRY_AGAIN_LATER: "No room at the moment; a Goodbye before it says when to come back.",
    CloseCode.VERSION_MISMATCH: "Another protocol version; the reason names both. Upgrade the older side.",
    CloseCode.HANDSHAKE_FAILED: "A key, a signature, a role or a certificate that is not the expected one.",
    CloseCode.NOT_ENROLLED: "The coordinator does not know this key. Join with a token.",
    CloseCode.JOIN_REFUSED: "The join secret is unknown, used or expired. Ask for another token.",
    CloseCode.LEASE_REFUSED: "The lease has expired or been revoked, or is for somebody else.",
    CloseCode.TOKENIZER_MISMATCH: "The drafter's tokenizer is not the target's; the reason names both fingerprints.",
    CloseCode.REPLACED: "The same key has connected again; the older link ends.",
    CloseCode.IDLE: "The link has carried nothing of use for too long.",
}


def tables() -> dict[str, str]:
    """Each table of the page by the name between its markers."""
    return {"messages": _messages(), "close codes": _close_codes(), "limits": _limits()}


def with_tables(page: str) -> str:
    """The page with what stands between its markers replaced."""
    for name, table in tables().items():
        places = re.findall(rf"<!-- table: {name} -->\n.*?<!-- end -->", page, flags=re.DOTALL)
        if len(places) != 1:
            raise ValueError(f"the page has {len(places)} places for the table of {name}")
        page = page.replace(places[0], f"<!-- table: {name} -->\n{table}<!-- end -->")
    return page


def _messages() -> str:
    common = set(typing.get_args(CommonMessage))
    parts, described = [], set()
    for title, union in _DIRECTIONS.items():
        parts.append(f"### {title}\n\n")
        nested: dict[type, None] = {}
        own = [kind for kind in typing.get_args(union) if union is CommonMessage or kind not in common]
        parts += [_struct(kind, nested) for kind in own]
        while new := [kind for kind in nested if kind not in described]:
            described.update(new)
            parts += [_struct(kind, nested) for kind in new]
    return "".join(parts)


def _struct(kind: type, nested: dict[type, None]) -> str:
    tag = kind.__struct_config__.tag  # type: ignore[attr-defined]  # a msgspec.Struct
    head = f"**{kind.__name__}**" + ("" if tag is None else f" `{tag}`")
    doc = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    lines = [f"{head} {doc}".rstrip() + "\n"]
    info = typing.cast(inspect.StructType, inspect.type_info(kind))
    for field in info.fields:
        optional = "" if field.required else " (optional)"
        lines.append(f"- `{field.encode_name}`: {_describe(field.type, nested)}{optional}")
    return "\n".join(lines) + "\n\n"


def _describe(kind: inspect.Type, nested: dict[type, None]) -> str:
    match kind:
        case inspect.StructType(cls=cls):
            nested[cls] = None
            return cls.__name__
        case inspect.IntType(ge=low, lt=below, le=high):
            return f"integer {_range(low, below - 1 if below is not None else high)}".rstrip()
        case inspect.FloatType(ge=low, le=high):
            return f"number {_range(low, high)}".rstrip()
        case inspect.StrType(pattern=str(pattern)):
            return f"text matching `{pattern}`"
        case inspect.StrType(min_length=low, max_length=high):
            return f"text, {_range(low or 0, high)} characters"
        case inspect.BytesType(min_length=low, max_length=high):
            return f"{low} bytes" if low == high else f"bytes, {_range(low or 0, high)}"
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return f"list of {_range(low or 0, high)} × ({_describe(item, nested)})"
        case inspect.TupleType(item_types=items):
            return " with ".join(_describe(item, nested) for item in items)
        case inspect.DictType(key_type=key, value_type=value, max_length=high):
            return f"map of at most {high}: ({_describe(key, nested)}) → ({_describe(value, nested)})"
        case inspect.UnionType(types=kinds):
            return " or ".join(_describe(one, nested) for one in kinds)
        case inspect.EnumType(cls=cls):
            return " or ".join(f"`{member.value}`" for member in cls)
        case inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
    raise NotImplementedError(f"no words for {kind}")


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{low:,.16g}…{high:,.16g}" if low is not None and high is not None else f"at least {low:,.16g}"


def _close_codes() -> str:
    rows = [f"| {code.value} | {code.name} | {_CLOSE_CODES[code]} |" for code in CloseCode]
    return "\n".join(["| code | name | what it means, what to do |", "|---|---|---|", *rows]) + "\n"


def _limits() -> str:
    """Values from the module, words from the string below each of them."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    rows = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(name := statement.targets[0], ast.Name):
            value = getattr(limits, name.id)
            rows.append(f"| `{name.id}` | {value:,}" if isinstance(value, int) else f"| `{name.id}` | {value}")
            rows[-1] += f" | {_words(following)} |"
    return "\n".join(["| name | value | |", "|---|---|---|", *rows]) + "\n"


def _words(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(words))):
            return " ".join(words.split())
    return ""


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
