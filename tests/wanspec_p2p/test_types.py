from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given

from tests.support.messages import samplings
from wanspec_p2p.types import GREEDY_BELOW, Role, Sampling, Segment


def test_the_defaults_are_greedy_and_plain() -> None:
    sampling = Sampling()
    assert sampling.greedy and sampling.plain
    assert msgspec.json.encode(sampling) == b"{}"
    assert not Sampling(temperature=0.1).greedy
    assert Sampling(temperature=0.8, top_k=50, top_p=0.9).plain


def test_next_to_no_temperature_is_greedy_and_travels_as_it_was_asked() -> None:
    for temperature in (5e-324, 1e-306, 1e-10, math.nextafter(GREEDY_BELOW, 0.0)):
        assert Sampling(temperature=temperature).greedy
        assert msgspec.json.decode(msgspec.json.encode(Sampling(temperature=temperature)))["temperature"] == temperature
    assert not Sampling(temperature=GREEDY_BELOW).greedy


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": ((1, 2.0),)},
        {"min_tokens": 1},
    ],
)
def test_whatever_touches_the_logits_is_not_plain(fields: dict[str, float]) -> None:
    assert not Sampling(**fields).plain  # type: ignore[arg-type]  # by the cases


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("temperature", -0.1, "temperature must be between 0 and 100"),
        ("temperature", float("nan"), "temperature must be between"),
        ("temperature", float("inf"), "temperature must be between"),
        ("top_p", 0.0, "top_p must be above 0"),
        ("top_p", 1.1, "top_p must be between 0 and 1"),
        ("top_k", -1, "top_k must be 0"),
        ("top_k", 2**31, "top_k must be 0"),
        ("min_tokens", -1, "min_tokens must be 0 or more"),
        ("min_tokens", 2**31, "min_tokens must be 0 or more"),
        ("repetition_penalty", 0.0, "repetition_penalty must be between 0.01 and 100"),
        ("presence_penalty", 101.0, "presence_penalty must be between -100 and 100"),
        ("frequency_penalty", -101.0, "frequency_penalty must be between -100 and 100"),
        ("logit_bias", ((-1, 0.0),), "logit_bias must name token ids"),
        ("logit_bias", ((2**31, 0.0),), "logit_bias must name token ids"),
        ("logit_bias", ((1, float("inf")),), "logit_bias must be between"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**{field: value})  # type: ignore[arg-type]  # by the cases


@given(samplings)
def test_sampling_travels(sampling: Sampling) -> None:
    assert msgspec.json.decode(msgspec.json.encode(sampling), type=Sampling) == sampling
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=Sampling) == sampling


def test_a_segment() -> None:
    segment = Segment(cache="s", length=4, keep=(0, 2), tokens=(7,), tree=(1, 2, 3), parents=(-1, 0, -1))
    assert segment.parents == (-1, 0, -1)
    assert segment.rows == 4
    grown = Segment(cache="s", length=5, keep=(0,), tokens=(), tree=(4, 5), parents=(1, 2), held=(1, 2))
    assert grown.rows == 2


GROWN: dict[str, object] = {"length": 3, "tokens": (), "tree": (1,), "parents": (-1,)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokens": ()}, "at least one token or tree node"),
        ({"tokens": (), "length": 3, "held": (0,)}, "at least one token or tree node"),
        ({"tokens": (), "tree": (1,), "parents": (-1,)}, "length must be 1 or more"),
        ({"tree": (1,), "parents": (-1,), "held": (0,)}, "without tokens only"),
        (GROWN | {"held": (1, 0)}, "ascend strictly"),
        (GROWN | {"held": (1, 1)}, "ascend strictly"),
        (GROWN | {"held": (0, 1), "keep": (1,)}, "either kept or held"),
        (GROWN | {"held": (0, 1), "parents": (2,)}, "a parent must come before its child"),
        ({"tree": (1,)}, "differ in length"),
        ({"tree": (1,), "parents": (0,)}, "a parent must come before its child"),
        ({"tree": (1,), "parents": (-2,)}, "a parent must come before its child"),
        ({"length": -1}, "length must be 0 or more"),
    ],
)
def test_a_segment_that_contradicts_itself(fields: dict[str, object], words: str) -> None:
    given = {"cache": "s", "length": 0, "keep": (), "tokens": (1,)} | fields
    with pytest.raises(ValueError, match=words):
        Segment(**given)  # type: ignore[arg-type]  # by the cases


def test_roles_are_their_words() -> None:
    assert [f"{role}" for role in Role] == ["node", "target", "coordinator"]
