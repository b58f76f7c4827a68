"""A target of one token a byte, and dialogues that it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_models import write_tiny_model
from wanspec_p2p.models.distill.corpus import Dialogue
from wanspec_p2p.models.distill.dialogues import Frame, Script, Turn
from wanspec_p2p.models.distill.torch_decoder import batched_attention_name
from wanspec_p2p.models.distill.torch_writer import Limits, write_dialogues
from wanspec_p2p.models.torch_loading import read_model
from wanspec_p2p.types import Device

END, TURN, VOCABULARY = 256, 257, 258
FRAME = Frame(before=(TURN, 117), middle=(END, TURN, 97), between=(END, TURN, 117))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are the same each time, and other programs of this machine are left their cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def target_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers; tied embeddings, as in a small model that is used."""
    folder = tmp_path_factory.mktemp("distill") / "tiny-target"
    return write_tiny_model(folder, num_hidden_layers=3, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def target(target_directory: Path) -> Any:
    """In float32, with the attention of many rows."""
    return read_model(target_directory, dtype=torch.float32, device=Device.CPU, attention=batched_attention_name())


@pytest.fixture(scope="session")
def plain(target_directory: Path) -> Any:
    """The same as transformers runs it."""
    return read_model(target_directory, dtype=torch.float32, device=Device.CPU, attention="sdpa")


def scripts(count: int, temperatures: Sequence[float] = (0.0, 1.0), turns: int = 1) -> list[Script]:
    """Each opens with a letter of its own."""
    return [
        Script(
            "letters",
            temperatures[i % len(temperatures)],
            (Turn((65 + i % 26,), open=True), *[Turn((), open=True)] * (turns - 1)),
        )
        for i in range(count)
    ]


def write(model: Any, wanted: Sequence[Script], *, rows: int = 16, context: int = 48, **more: Any) -> list[Dialogue]:
    settings = {"limits": Limits(user=8, answer=24, next_user=4, next_answer=8), "seed": 1, **more}
    return write_dialogues(
        model,
        wanted,
        frame=FRAME,
        eos=frozenset({END}),
        vocab_size=VOCABULARY,
        rows=rows,
        context=context,
        **settings,
    )


@pytest.fixture(scope="session")
def dialogues(target: Any) -> list[Dialogue]:
    """A small corpus that the target wrote: 160 dialogues, four of them held back."""
    torch.set_num_threads(1)
    return write(target, scripts(160), rows=160)


def dialogue(length: int = 5, *, kind: str = "free", first: int = 0, labels: int = 4) -> Dialogue:
    """Of no model: a third given, a third the user's, a third an answer."""
    ids = np.arange(first, first + length, dtype=np.int32)
    label_ids = (ids[:, None] + 1 + np.arange(labels)).astype(np.int32)
    logprobs = np.tile(np.log(np.arange(labels, 0, -1) / sum(range(labels + 1))), (length, 1)).astype(np.float16)
    logprobs[-1] = -np.inf
    origins = np.sort(np.arange(length) % 3).astype(np.uint8)
    return Dialogue(kind, 0.5, ids, origins, label_ids, logprobs)
