from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.torch_cache import FIRST_SLOTS
from wanspec_p2p.models.torch_parts import PASS_ROWS
from wanspec_p2p.models.torch_passes import Passes, attention_name


@pytest.fixture
def passes(tiny_directory: Path) -> Passes:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_directory, dtype=torch.float32, attn_implementation=attention_name(exact=True)
    )
    return Passes(model.eval(), vocab_size=258, exact=True)


def test_rows_are_those_transformers_computes(passes: Passes) -> None:
    text = [(7 * i) % 258 for i in range(PASS_ROWS + 20)]
    expected = passes.reference(text)
    [last] = passes.run(passes.new_cache(), text)
    assert np.allclose(last, expected[-1], atol=1e-4)
    chain = passes.run(passes.new_cache(), text[:5], text[5:], range(-1, len(text) - 6))
    assert np.allclose(chain, expected[4:], atol=1e-4)


def test_a_long_prompt_before_a_tree_is_prefilled_first(passes: Passes) -> None:
    text = [(5 * i) % 258 for i in range(PASS_ROWS + 30)]
    rows = passes.run(passes.new_cache(), text, [1, 2, 3], [-1, -1, 0])
    for row, ending in zip(rows, ([], [1], [2], [1, 3]), strict=True):
        assert np.allclose(row, passes.reference(text + ending)[-1], atol=1e-4)


def test_a_prompt_that_outgrows_the_first_slots_is_whole(passes: Passes) -> None:
    text = [(11 * i) % 258 for i in range(FIRST_SLOTS + 100)]
    cache = passes.new_cache()
    rows = passes.run(cache, text, [1, 2, 3], [-1, -1, 1])
    assert np.allclose(rows[0], passes.reference(text)[-1], atol=1e-4)
    cache.keep([1, 2])
    [after] = passes.run(cache, [4])
    assert np.allclose(after, passes.reference([*text, 2, 3, 4])[-1], atol=1e-4)


def test_the_reference_leaves_our_attention_in_place(passes: Passes) -> None:
    passes.reference([1, 2, 3])
    assert passes.model.config._attn_implementation == attention_name(exact=True)


def test_attention_that_cannot_be_replaced_is_refused(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.model.config, "attn_logit_softcapping", 30.0, raising=False)
    with pytest.raises(ModelError, match="llama are not supported"):
        Passes(passes.model, vocab_size=258, exact=True)
