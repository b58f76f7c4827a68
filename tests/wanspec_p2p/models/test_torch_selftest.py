from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_models import LENGTH_ROPES, length_rope, write_tiny_model
from wanspec_p2p.errors import ModelError
from wanspec_p2p.models import torch_passes
from wanspec_p2p.models.base import Rows
from wanspec_p2p.models.torch_attention import Tail
from wanspec_p2p.models.torch_cache import SessionCache
from wanspec_p2p.models.torch_joined import JoinedCache
from wanspec_p2p.models.torch_parts import Part
from wanspec_p2p.models.torch_passes import Passes, attention_name
from wanspec_p2p.models.torch_selftest import SHARED_ROWS, self_test
from wanspec_p2p.types import ExactnessClass


def read(directory: Path, *, exact: bool = True, dtype: torch.dtype = torch.bfloat16) -> Passes:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation=attention_name(exact=exact)
    )
    return Passes(model.eval(), vocab_size=258, exact=exact)


def test_the_engine_in_bfloat16_is_bitwise(tiny_directory: Path) -> None:
    passes = read(tiny_directory)
    verdict = self_test(passes, 258)
    assert (verdict.exactness, verdict.largest, passes.tail) == (ExactnessClass.BITWISE, 0.0, Tail.SHARED)
    assert verdict.compared >= 10
    assert passes.joins


class Leaky(Passes):
    """Adds to every row what a product that depends on the number of rows would."""

    tails = frozenset(Tail)

    def run(self, cache: SessionCache, tokens: Any, tree: Any = (), parents: Any = ()) -> Rows:
        rows = super().run(cache, tokens, tree, parents)
        return rows + np.float32(1e-4) * len(tree) if self.tail in self.tails else rows


def test_weights_that_are_no_numbers_are_refused(tiny_directory: Path) -> None:
    passes = read(tiny_directory)
    with torch.no_grad():
        passes.model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="logits are no numbers: its weights are damaged"):
        self_test(passes, 258)


def test_an_engine_whose_rows_depend_on_their_company_says_near_tie(tiny_directory: Path) -> None:
    passes = read(tiny_directory)
    passes.__class__ = Leaky
    verdict = self_test(passes, 258)
    assert verdict.exactness is ExactnessClass.NEAR_TIE
    assert verdict.largest > 0
    assert passes.tail is Tail.SHARED
    assert not passes.joins


class Crowded(Passes):
    """Changes the rows of the pass that has as many as `leak`, all sessions together, by the least there is."""

    leak = 0

    def _pass(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        found = super()._pass(parts)
        if len(parts) > 1 and sum(len(part.ids) for part in parts) == self.leak:
            found[1] = torch.nextafter(found[1], torch.full_like(found[1], torch.inf))
        return found


@pytest.mark.parametrize("rows", SHARED_ROWS)
def test_where_company_changes_a_bit_sessions_run_in_turn_and_the_engine_is_bitwise(
    tiny_directory: Path, rows: int
) -> None:
    passes = read(tiny_directory)
    passes.__class__ = type("At", (Crowded,), {"leak": rows})
    assert self_test(passes, 258).exactness is ExactnessClass.BITWISE
    assert not passes.joins


def test_keys_that_a_shared_pass_leaves_wrong_are_noticed(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = JoinedCache.update

    def careless(self: JoinedCache, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Any:
        seen = honest(self, keys, values, layer)
        if len(self._caches) == 1:
            return seen
        seen = [own.clone() for own in seen[0]], [own.clone() for own in seen[1]]  # this pass itself is right
        last = self._caches[-1]
        last._block[layer, :, last._start, 0] += 1
        return seen

    passes = read(tiny_directory)
    monkeypatch.setattr(JoinedCache, "update", careless)
    assert self_test(passes, 258).exactness is ExactnessClass.BITWISE
    assert not passes.joins


def test_where_shared_sums_differ_the_gathered_tail_is_taken(tiny_directory: Path) -> None:
    passes = read(tiny_directory)
    passes.__class__ = type("OnlyShared", (Leaky,), {"tails": frozenset({Tail.SHARED})})
    assert self_test(passes, 258).exactness is ExactnessClass.BITWISE
    assert passes.tail is Tail.GATHERED


def test_the_fast_attention_is_near_tie_without_a_test(tiny_directory: Path) -> None:
    passes = read(tiny_directory, exact=False)
    verdict = self_test(passes, 258)
    assert (verdict.exactness, verdict.compared) == (ExactnessClass.NEAR_TIE, 0)
    assert not passes.joins


def test_an_attention_that_transformers_computes_otherwise_is_refused(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = read(tiny_directory)
    honest = torch_passes.make_plan

    def blind(*args: Any, **kwargs: Any) -> Any:
        plan = honest(*args, **kwargs)
        plan.positions[:] = 0
        return plan

    monkeypatch.setattr(torch_passes, "make_plan", blind)
    with pytest.raises(ModelError, match="not supported"):
        self_test(passes, 258)


def test_attention_with_sinks_is_refused(tmp_path: Path) -> None:
    passes = read(write_tiny_model(tmp_path, kind="GraniteSWA"))
    with pytest.raises(ModelError, match="its attention asks for `s_aux`"):
        self_test(passes, 258)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scale_that_ours_would_miss_is_noticed(tiny_directory: Path, dtype: torch.dtype) -> None:
    passes = read(tiny_directory, dtype=dtype)
    for layer in passes.model.model.layers:
        layer.self_attn.register_forward_pre_hook(less_sharp, with_kwargs=True)
    with pytest.raises(ModelError, match="models of type llama are not supported: our attention computes other"):
        self_test(passes, 258)


def less_sharp(module: Any, args: Any, kwargs: Any) -> None:
    """Only where our plans come along: transformers itself computes with the scale that the model has."""
    module.scaling = 8**-0.5 * (0.7 if "wanspec_plans" in kwargs else 1.0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Mistral", {"sliding_window": 40}),
        ("Llama4", {"attention_chunk_size": 40, "num_local_experts": 4, "intermediate_size_mlp": 64}),
        ("Mixtral", {"num_local_experts": 4}),
    ],
)
def test_short_windows_chunks_and_experts_are_no_other_logits(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    self_test(read(write_tiny_model(tmp_path, kind=kind, num_hidden_layers=4, **settings)), 258)


@pytest.mark.parametrize(("context", "exactness"), [(200, ExactnessClass.BITWISE), (100, ExactnessClass.NEAR_TIE)])
@pytest.mark.parametrize("kind", LENGTH_ROPES)
def test_rope_that_looks_at_the_length_is_bitwise_where_the_test_fits_its_context(
    tmp_path: Path, kind: str, context: int, exactness: ExactnessClass
) -> None:
    passes = read(write_tiny_model(tmp_path, **length_rope(kind, context)))
    assert self_test(passes, 258).exactness is exactness
