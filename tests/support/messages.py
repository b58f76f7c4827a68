"""hypothesis strategies for messages, read off their types: whatever a field's bounds admit."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from wanspec_p2p.protocol.coordinator_to_node import Landmarks
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.node_to_target import Draft
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts, Tokens
from wanspec_p2p.protocol.target_to_node import Open, Outlook, Verdict
from wanspec_p2p.types import Sampling

_MAX_ITEMS = 4  # beyond the minimum; enough to be a list, small enough to be quick


def messages(kind: type) -> st.SearchStrategy[Any]:
    """Messages of one class that are within their types and do not contradict themselves."""
    return of(inspect.type_info(kind)).map(_agree)


def of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a msgspec type."""
    match kind:
        case inspect.StructType(cls=cls) if cls is Sampling:
            return samplings
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: of(field.type) for field in fields})
        case inspect.IntType(ge=low, lt=below, le=high):
            return st.integers(low, below - 1 if below is not None else high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern.removesuffix("$").removesuffix(r"\Z") + r"\Z")
        case inspect.StrType(min_length=low, max_length=high):
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=low or 0, max_size=_few(low, high))
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=_few(low, high))
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return st.lists(of(item), min_size=low or 0, max_size=_few(low, high)).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(of, items))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(of(key), of(value), max_size=_MAX_ITEMS)
        case inspect.UnionType(types=kinds):
            return st.one_of(*map(of, kinds))
        case inspect.EnumType(cls=cls):
            return st.sampled_from(cls)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
    raise NotImplementedError(f"no strategy for {kind}")


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.0, 100.0),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0.0, 1.0, exclude_min=True),
    repetition_penalty=st.floats(0.01, 100.0),
    presence_penalty=st.floats(-100.0, 100.0),
    frequency_penalty=st.floats(-100.0, 100.0),
    logit_bias=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-1000.0, 1000.0)), max_size=4).map(tuple),
    min_tokens=st.integers(0, 2**31 - 1),
)


def _few(low: int | None, high: int | None) -> int:
    few = (low or 0) + _MAX_ITEMS
    return few if high is None else min(few, high)


def _hanging_together(outlook: Outlook) -> Outlook:
    count = len(outlook.tokens)
    parents = tuple(min(parent, i - 1) for i, parent in enumerate(_fit(outlook.parents, count)))
    confidences = (*outlook.confidences, *[0] * count)[:count]
    return msgspec.structs.replace(outlook, parents=parents, confidences=confidences)


def _agree(message: Any) -> Any:
    """Change the fields that must fit the others until they do."""
    change = msgspec.structs.replace
    match message:
        case Draft(tokens=tokens, parents=parents, confidences=confidences, base_hash=base, bases=bases):
            highest = enumerate(_fit(parents, len(tokens)))
            own = tuple(max(min(parent, i - 1), -1 - len(bases)) for i, parent in highest)
            base = base.ljust(8, b"-") if base else b""
            return change(message, parents=own, confidences=_fit(confidences, len(tokens)), base_hash=base)
        case Open(prefix=prefix, prompt_len=length, lanes=lanes, lane=lane):
            return change(message, prompt_len=length % (len(prefix) + 1), lane=lane % lanes)
        case Verdict(tail=tail, committed_len=length, outlook=outlook):
            outlook = None if outlook is None else _hanging_together(outlook)
            return change(message, committed_len=max(length, len(tail)), outlook=outlook)
        case Landmarks(landmarks=landmarks):
            return change(message, landmarks=tuple({landmark.target: landmark for landmark in landmarks}.values()))
        case Generate(messages=chat):
            return change(message, prompt=None if chat else "x", prompt_ids=())
        case Tokens(ids=ids, origins=origins, logprobs=logprobs):
            return change(
                message, origins=(*origins, *[None] * len(ids))[: len(ids)], logprobs=_fit(logprobs, len(ids))
            )
        case Receipts(receipts=receipts):
            return change(message, receipts=tuple(map(_plausible, receipts)))
    return message


def _plausible(receipt: Receipt) -> Receipt:
    depths = len(receipt.by_depth)  # shares, so that the sums are within the bounds of one count
    by_depth = tuple((max(pair) // depths, min(pair) // depths) for pair in receipt.by_depth)
    accepted = max(receipt.accepted, sum(right for _, right in by_depth))
    verified = max(receipt.verified, accepted, sum(reached for reached, _ in by_depth))
    return msgspec.structs.replace(
        receipt,
        by_depth=by_depth,
        drafted=max(receipt.drafted, receipt.won, verified),
        verified=verified,
        accepted=accepted,
    )


def _fit(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return (values * count)[:count] if values else ()
