from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.torch_context import context_length, rotates_by_length

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 40}


def config(**settings: Any) -> Any:
    return SimpleNamespace(max_position_embeddings=100, **settings)


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({}, 100),
        ({"sliding_window": None, "attention_chunk_size": None, "rope_parameters": None}, 100),
        ({"sliding_window": 30}, 30),
        ({"sliding_window": 30, "attention_chunk_size": 20}, 20),
        ({"attention_chunk_size": 8192}, 100),
        ({"rope_parameters": LONG}, 40),
        ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 50}}, 50),
        ({"rope_parameters": {"sliding_attention": None, "full_attention": LONG}}, 40),
        ({"rope_parameters": LONG, "sliding_window": 30}, 30),
        ({"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 40}}, 100),
    ],
)
def test_the_context_ends_where_attention_or_rotation_changes(settings: dict[str, Any], context: int) -> None:
    assert context_length(config(**settings)) == context


@pytest.mark.parametrize("positions", [0, -5])
def test_a_model_without_a_context_is_refused(positions: int) -> None:
    with pytest.raises(ModelError, match="max_position_embeddings must be 1 or more"):
        context_length(SimpleNamespace(max_position_embeddings=positions))


@pytest.mark.parametrize(
    ("parameters", "by_length"),
    [
        (None, False),
        ({"rope_type": "llama3"}, False),
        ({"rope_type": "dynamic"}, True),
        (LONG, True),
        ({"full_attention": {"rope_type": "dynamic"}, "sliding_attention": {"rope_type": "default"}}, True),
    ],
)
def test_what_rotates_by_the_length_of_a_pass_is_known(parameters: Any, by_length: bool) -> None:
    assert rotates_by_length(config(rope_parameters=parameters)) is by_length
