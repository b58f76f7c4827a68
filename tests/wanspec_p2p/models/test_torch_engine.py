"""Exactness of the built-in engine: what a position's logits are may not depend on how they came to be computed."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.growing_trees import GrowingTree, Prefixes
from tests.support.tiny_models import LENGTH_ROPES, length_rope, write_tiny_model
from wanspec_p2p.errors import EngineError, LocalProtocolError, ModelError
from wanspec_p2p.models.base import LanguageModel, Rows
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.directories import directory_manifest
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.torch_attention import Tail
from wanspec_p2p.models.torch_cache import PassCache
from wanspec_p2p.models.torch_device import choose_device
from wanspec_p2p.models.torch_engine import TorchModel, Weights
from wanspec_p2p.models.torch_parts import Part
from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment

TARGET_PROMPT = "The tide comes in twice a day because"


async def load(
    directory: Path, tmp_path: Path, dtype: Dtype = Dtype.FLOAT32, threads: int = 1, *, fast: bool = False
) -> TorchModel:
    manifest = directory_manifest(directory, tmp_path)
    weights = Weights(directory.name, directory, manifest.digest, tokenizer_facts(directory))
    return await TorchModel.load(weights, choose_device(device=Device.CPU, dtype=dtype, threads=threads), fast=fast)


async def row_by_row(model: LanguageModel, text: Sequence[int], start: int = 0) -> Rows:
    """Rows after each of `text[start:]` from passes of one token; the cache already holds what comes before."""
    positions = range(start, len(text))
    rows = [(await model.forward([Segment("reference", at, (), (text[at],))]))[0] for at in positions]
    return np.concatenate(rows)


def hide(
    path: Sequence[int], width: int, draw: random.Random, vocab: int
) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """A tree with `path` at random slots among junk; returns tokens, parents and the path's nodes."""
    nodes = sorted(draw.sample(range(width), len(path)))
    tree = [draw.randrange(vocab) for _ in range(width)]
    parents = [draw.randrange(-1, node) for node in range(width)]
    for depth, node in enumerate(nodes):
        tree[node], parents[node] = path[depth], nodes[depth - 1] if depth else -1
    return tuple(tree), tuple(parents), nodes


async def compare_trees(model: LanguageModel, text: Sequence[int], widths: Sequence[int], *, start: int = 0) -> int:
    """Go through `text[start:]` in trees of the given widths, keeping part of each path; every row must equal the
    one-token pass's. Returns the number of rows compared."""
    if start:
        for cache in ("reference", "tree"):
            await model.forward([Segment(cache, 0, (), tuple(text[:start]))])
    reference = await row_by_row(model, text, start)
    draw = random.Random(len(text))
    compared, at, length = 0, start, start
    keep: tuple[int, ...] = ()
    while at < len(text) - 1:
        width = draw.choice(widths)
        depth = min(width, len(text) - at - 1, draw.randint(1, 9))
        tree, parents, nodes = hide(text[at + 1 : at + 1 + depth], width, draw, model.info.vocab_size)
        [rows] = await model.forward([Segment("tree", length, keep, (text[at],), tree, parents)])
        own = rows[[0, *(node + 1 for node in nodes)]]
        assert np.array_equal(own, reference[at - start : at - start + depth + 1]), f"position {at}, width {width}"
        compared += len(own)
        length += len(keep) + 1
        keep = tuple(nodes[: draw.randint(0, depth)])
        at += len(keep) + 1
    return compared


@pytest.fixture
def tokens() -> list[int]:
    draw = random.Random(7)
    return [draw.randrange(258) for _ in range(300)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", list(Dtype))
async def test_tree_rows_equal_one_token_rows_bit_for_bit(
    tiny_directory: Path, tmp_path: Path, tokens: list[int], dtype: Dtype, threads: int
) -> None:
    model = await load(tiny_directory, tmp_path, dtype, threads)
    if dtype is Dtype.FLOAT32 and model.info.exactness is not ExactnessClass.BITWISE:
        pytest.skip("this machine's float32 products depend on their shape, and the engine says so")
    assert model.info.exactness is ExactnessClass.BITWISE
    # Two threads wait for each other at every product: on a busy machine that takes a while.
    start = 0 if threads == 1 else 240
    assert await compare_trees(model, tokens, (1, 2, 5, 8, 17, 40, 63, 90), start=start) > len(tokens) - start
    await model.close()


@pytest.mark.parametrize("kind", LENGTH_ROPES)
async def test_a_deep_draft_at_the_end_of_an_original_context_changes_nothing(
    tmp_path: Path, tokens: list[int], kind: str
) -> None:
    directory = write_tiny_model(tmp_path / "scaled", **length_rope(kind, 200))
    model = await load(directory, tmp_path, Dtype.BFLOAT16)
    assert (model.info.context, model.info.exactness) == (200, ExactnessClass.BITWISE)
    assert await compare_trees(model, tokens[:200], (6, 8, 17), start=180) >= 20
    deepest = Segment("deep", 0, (), tuple(tokens[:194]), tuple(tokens[194:201]), tuple(range(-1, 6)))
    with pytest.raises(LocalProtocolError, match="the pass reaches position 201, the context ends at 200"):
        await model.forward([deepest])
    await model.close()


async def compare_growth(
    model: LanguageModel, passes: Iterable[tuple[Segment, Prefixes]], lengths: Container[int]
) -> int:
    """Run the passes; every row must equal that of its prefix alone. Returns the rows whose length is in `lengths`."""
    compared = 0
    for number, (segment, prefixes) in enumerate(passes):
        [rows] = await model.forward([segment])
        for row, prefix in zip(rows, prefixes, strict=True):
            [[expected]] = await model.forward([Segment("fresh", 0, (), tuple(prefix))])
            assert np.array_equal(row, expected), f"pass {number}, position {len(prefix)}"
            compared += len(prefix) in lengths
    return compared


def grown_passes(tree: GrowingTree, prompt: Sequence[int]) -> Iterator[tuple[Segment, Prefixes]]:
    """A tree grown over several passes across a chunk's end, promoted, grown until it is wide, and begun again."""
    yield tree.start(prompt, 9)
    for width in (8, 1, 5, 8):
        yield tree.grow(width)
    yield tree.promote(7, 3)
    for width in (8, 8, 1, 8, 8, 40):
        yield tree.grow(width)
    yield tree.promote(6, 5, hold=0.7)
    yield tree.promote(6, 1)
    yield tree.grow(4)
    yield tree.crop(6, 2, 0)
    yield tree.grow(6)


@pytest.mark.parametrize("tail", list(Tail))
@pytest.mark.parametrize("dtype", list(Dtype))
async def test_a_tree_grown_over_many_passes_has_the_rows_of_fresh_prefixes_bit_for_bit(
    tiny_directory: Path, tmp_path: Path, tokens: list[int], dtype: Dtype, tail: Tail
) -> None:
    model = await load(tiny_directory, tmp_path, dtype)
    if dtype is Dtype.FLOAT32 and model.info.exactness is not ExactnessClass.BITWISE:
        pytest.skip("this machine's float32 products depend on their shape, and the engine says so")
    if tail is not model._passes.tail and model._passes.tail is Tail.GATHERED:
        pytest.skip("shared sums differ on this machine, and the engine does without")
    model._passes.tail = tail
    tree = GrowingTree(random.Random(1), "grown", vocab_size=258, deep=0.6)
    compared = await compare_growth(model, grown_passes(tree, tokens[:117]), range(120, 141))
    assert compared >= 100
    await model.close()


@pytest.mark.parametrize("seed", range(4))
async def test_random_growth_has_the_rows_of_fresh_prefixes(
    tiny_directory: Path, tmp_path: Path, tokens: list[int], seed: int
) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    draw = random.Random(seed)
    tree = GrowingTree(draw, "grown", vocab_size=258, deep=(0.3, 0.7, 0.9, 1.0)[seed], context=512)
    steps = (tree.step(draw.randint(1, 9)) for _ in range(20))
    start = draw.choice((1, 60, 120, 250))
    assert await compare_growth(model, itertools.chain([tree.start(tokens[:start], 5)], steps), range(513)) > 60
    await model.close()


async def test_a_prompt_may_be_prefilled_in_any_pieces(tiny_directory: Path, tmp_path: Path, tokens: list[int]) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    reference = await row_by_row(model, tokens)
    for length in (*range(1, 12), 127, 128, 129, 255, 256, 257, 300):
        [rows] = await model.forward([Segment("whole", 0, (), tuple(tokens[:length]))])
        assert np.array_equal(rows[0], reference[length - 1]), length
    for size in (3, 64, 200):
        for at in range(0, len(tokens), size):
            piece = tuple(tokens[at : at + size])
            [rows] = await model.forward([Segment(f"pieces of {size}", at, (), piece)])
            assert np.array_equal(rows[0], reference[at + len(piece) - 1]), (size, at)
    await model.close()


async def test_a_drafted_chain_longer_than_a_pass_returns_every_row(
    tiny_directory: Path, tmp_path: Path, tokens: list[int]
) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    reference = await row_by_row(model, tokens)
    chain = tuple(tokens[20:])
    parents = tuple(range(-1, len(chain) - 1))
    [rows] = await model.forward([Segment("chain", 0, (), tuple(tokens[:20]), chain, parents)])
    assert np.array_equal(rows, reference[19:])
    kept = tuple(range(200))
    [rows] = await model.forward([Segment("chain", 20, kept, (tokens[220],))])
    assert np.array_equal(rows[0], reference[220])
    await model.close()


async def test_sessions_in_one_batch_do_not_touch_each_other(
    tiny_directory: Path, tmp_path: Path, tokens: list[int]
) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    alone = await row_by_row(model, tokens[:6])
    for at, token in enumerate(tokens[:6]):
        batch = [Segment("a", at, (), (token,)), Segment("b", 0, (), (1, 2, 3, token), (5, 6), (-1, -1))]
        first, second = await model.forward(batch)
        assert np.array_equal(first[0], alone[at])
        assert second.shape == (3, model.info.vocab_size)
    await model.release("b")
    await model.release("b")
    with pytest.raises(LocalProtocolError, match="holds 0 positions"):
        await model.forward([Segment("b", 4, (), (1,))])
    await model.close()


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("dtype", list(Dtype))
async def test_rows_of_a_shared_pass_are_those_of_sessions_alone_bit_for_bit(
    tmp_path: Path, tokens: list[int], monkeypatch: pytest.MonkeyPatch, kind: str, dtype: Dtype
) -> None:
    directory = write_tiny_model(tmp_path / kind, kind=kind)
    shared, alone = await load(directory, tmp_path, dtype), await load(directory, tmp_path, dtype)
    if dtype is Dtype.FLOAT32 and not shared._passes.joins:
        pytest.skip("this machine's float32 products depend on their shape, and the engine does without")
    assert shared._passes.joins
    sizes = sessions_in_passes(shared, monkeypatch)
    draw = random.Random(sum(kind.encode()))
    lengths = (1, 4, 60, 124, 127, 200, 260)
    trees = [GrowingTree(draw, f"{length}", vocab_size=258, deep=0.7, context=512) for length in lengths]
    batch = [tree.start(tokens[:length], 5)[0] for tree, length in zip(trees, lengths, strict=True)]
    for number in range(16):
        expected = [rows for segment in batch for rows in await alone.forward([segment])]
        if number % 4 == 3:  # what shared passes left in the caches is used alone, and the other way round
            found = [rows for segment in batch for rows in await shared.forward([segment])]
        else:
            found = await shared.forward(batch)
        for segment, own, right in zip(batch, found, expected, strict=True):
            assert np.array_equal(own, right), f"pass {number}: {segment}"
        members = draw.sample(trees, draw.randint(2, len(trees)))
        batch = [tree.step(draw.choice((1, 1, 4, 9, 9, 40, 70)))[0] for tree in members]
    assert {1, 2, 3, 4} <= set(sizes)
    await shared.close()
    await alone.close()


def sessions_in_passes(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each forward pass from now on."""
    sizes: list[int] = []
    honest = model._passes._pass

    def counted(parts: Sequence[Part]) -> list[torch.Tensor]:
        sizes.append(len(parts))
        return honest(parts)

    monkeypatch.setattr(model._passes, "_pass", counted)
    return sizes


async def test_sessions_share_a_pass_unless_that_changes_their_rows(
    tiny_directory: Path, tmp_path: Path, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    sizes = sessions_in_passes(model, monkeypatch)
    batch = [
        Segment("long", 0, (), tuple(tokens[:150])),  # a block of 128 and the rest
        Segment("a", 0, (), (1,), (2, 3), (-1, -1)),
        Segment("b", 0, (), tuple(tokens[:103])),  # no place left for one row more
        Segment("c", 0, (), (5,)),
    ]
    joined = await model.forward(batch)
    assert sizes == [1, 3, 1]
    for segment in batch:
        await model.release(segment.cache)
    sizes.clear()
    model._passes.joins = False
    in_turn = await model.forward(batch)
    assert sizes == [1, 1, 1, 1, 1]
    for ours, theirs in zip(joined, in_turn, strict=True):
        assert np.array_equal(ours, theirs)
    assert await model.forward([]) == []
    await model.close()


async def test_a_failed_shared_pass_drops_the_caches_of_all_in_it_and_of_nobody_else(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    await model.forward([Segment(name, 0, (), (1, 2)) for name in "abc"])
    honest = PassCache.update

    def fail(self: PassCache, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Any:
        if layer == 1:
            raise RuntimeError("it broke half-way")
        return honest(self, keys, values, layer)

    with monkeypatch.context() as patch:
        patch.setattr(PassCache, "update", fail)
        with pytest.raises(EngineError, match="a pass of 2 segments failed: RuntimeError: it broke half-way"):
            await model.forward([Segment("a", 2, (), (3,)), Segment("b", 2, (), (3,))])
    for name in "ab":
        with pytest.raises(LocalProtocolError, match="holds 0 positions"):
            await model.forward([Segment(name, 2, (), (3,))])
    await model.forward([Segment("c", 2, (), (3,))])
    await model.close()


async def test_rows_are_float32_and_as_wide_as_the_tokenizer(tiny_directory: Path, tmp_path: Path) -> None:
    model = await load(tiny_directory, tmp_path, Dtype.BFLOAT16)
    [rows] = await model.forward([Segment("a", 0, (), (1, 2), (3,), (-1,))])
    assert (rows.dtype, rows.shape) == (np.float32, (2, 258))
    assert np.isfinite(rows).all()
    await model.close()


async def test_ids_that_the_model_cannot_read_are_no_ids_of_its(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "narrow", vocab_size=250, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model = await load(directory, tmp_path)
    assert model.info.vocab_size == 250, "the tokenizer has 258"
    [rows] = await model.forward([Segment("a", 0, (), (1, 2))])
    assert rows.shape == (1, 258), "whoever samples from them counts by the tokenizer"
    assert np.isfinite(rows[:, :250]).all()
    assert np.isneginf(rows[:, 250:]).all()
    with pytest.raises(LocalProtocolError, match="outside the vocabulary of 250"):
        await model.forward([Segment("a", 2, (), (), (250,), (-1,))])
    await model.close()


async def test_facts_that_can_change_a_token_change_the_fingerprint(tiny_directory: Path, tmp_path: Path) -> None:
    models = [
        await load(tiny_directory, tmp_path),
        await load(tiny_directory, tmp_path),
        await load(tiny_directory, tmp_path, threads=2),
        await load(tiny_directory, tmp_path, Dtype.BFLOAT16),
        await load(tiny_directory, tmp_path, fast=True),
        await load(write_tiny_model(tmp_path / "other", seed=1), tmp_path),
    ]
    first, again, *others = [model.info.fingerprint for model in models]
    assert first == again
    assert len({first, *others}) == 1 + len(others)
    info = models[0].info
    assert (info.eos, info.context, info.vocab_size, info.device) == ((256,), 512, 258, Device.CPU)
    assert models[4].info.exactness is ExactnessClass.NEAR_TIE
    for model in models:
        await model.close()


async def test_what_makes_the_prompt_or_ends_the_answer_changes_the_fingerprint(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "model")
    before = await load(directory, tmp_path)
    generation = directory / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_bytes()) | {"eos_token_id": [257, 256]}))
    longer = await load(directory, tmp_path)
    (directory / "chat_template.jinja").write_text("another")
    other = await load(directory, tmp_path)
    assert len({model.info.digest for model in (before, longer, other)}) == 1
    assert len({model.info.fingerprint for model in (before, longer, other)}) == 3
    for model in (before, longer, other):
        await model.close()


async def test_the_fast_attention_computes_the_same_up_to_rounding(
    tiny_directory: Path, tmp_path: Path, tokens: list[int]
) -> None:
    exact, fast = await load(tiny_directory, tmp_path), await load(tiny_directory, tmp_path, fast=True)
    segment = Segment("a", 0, (), tuple(tokens[:140]), (1, 2, 3, 4), (-1, 0, 0, -1))
    [ours], [theirs] = await exact.forward([segment]), await fast.forward([segment])
    assert np.allclose(ours, theirs, atol=1e-4)
    await exact.close()
    await fast.close()


async def test_a_failed_pass_is_an_engine_error_and_drops_the_caches_of_its_batch(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await load(tiny_directory, tmp_path)
    await model.forward([Segment("a", 0, (), (1, 2)), Segment("b", 0, (), (1, 2))])

    def fail(*args: object) -> Rows:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr("wanspec_p2p.models.torch_passes.Passes.run_batch", fail)
        with pytest.raises(EngineError, match="out of memory during a pass of 1 segments"):
            await model.forward([Segment("a", 2, (), (3,))])
    with pytest.raises(LocalProtocolError):
        await model.forward([Segment("a", 2, (), (3,))])
    [rows] = await model.forward([Segment("b", 2, (), (3,))])
    assert rows.shape[0] == 1
    await model.close()


async def test_the_event_loop_runs_on_while_the_model_computes(tiny_directory: Path, tmp_path: Path) -> None:
    model = await load(tiny_directory, tmp_path)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await model.forward([Segment("a", 0, (), tuple(range(256)))])
    counter.cancel()
    assert turns > 1
    await model.close()


async def test_weights_that_are_not_a_model_are_one_clear_line(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "broken")
    (directory / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises((ModelError, EngineError)) as caught:
        await load(directory, tmp_path)
    assert "\n" not in str(caught.value)


def prompt_of(catalog: Catalog, text: str) -> list[int]:
    from wanspec_p2p.models.torch_tokenizer import TorchTokenizer

    return TorchTokenizer(catalog.path("smollm2-135m")).encode_chat([("user", text)])


@pytest.mark.model
async def test_the_real_model_is_bitwise_in_bfloat16(model_cache: Path) -> None:
    catalog = Catalog(model_cache)
    directory = catalog.path("smollm2-135m")
    weights = Weights("smollm2-135m", directory, catalog.digest("smollm2-135m"), tokenizer_facts(directory))
    placement = choose_device(device=Device.CPU, dtype=Dtype.BFLOAT16, threads=1)
    model = await TorchModel.load(weights, placement)
    assert model.info.exactness is ExactnessClass.BITWISE
    assert model._passes.joins
    text = prompt_of(catalog, TARGET_PROMPT)
    draw = random.Random(3)
    text += [draw.randrange(model.info.vocab_size) for _ in range(145 - len(text))]
    assert await compare_trees(model, text, (1, 4, 8, 33, 63), start=105) >= 40
    await model.close()


@pytest.mark.model
async def test_the_real_model_in_float32_agrees_with_transformers_greedy_decoding(model_cache: Path) -> None:
    from transformers import AutoModelForCausalLM

    catalog = Catalog(model_cache)
    directory = catalog.path("smollm2-135m")
    prompt, count = prompt_of(catalog, TARGET_PROMPT), 24
    torch.set_num_threads(1)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    answer = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count)[0, len(prompt) :].tolist()
    del theirs
    weights = Weights("smollm2-135m", directory, catalog.digest("smollm2-135m"), tokenizer_facts(directory))
    model = await TorchModel.load(weights, choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1))
    [rows] = await model.forward(
        [Segment("a", 0, (), tuple(prompt), tuple(answer[:-1]), tuple(range(-1, len(answer) - 2)))]
    )
    for position, token in enumerate(answer):
        best = int(rows[position].argmax())
        if best != token:
            margin = rows[position, best] - rows[position, token]
            assert margin < 1e-4, f"token {position}: {best} instead of {token} at a margin of {margin}"
            break
    else:
        assert [int(row.argmax()) for row in rows] == answer
    await model.close()
