"""Every row must get what transformers computes for that row's sequence alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import write_tiny_model
from wanspec_p2p.models.distill.torch_decoder import BatchDecoder, batched_attention_name
from wanspec_p2p.models.torch_loading import read_model
from wanspec_p2p.types import Device

CONTEXT = 80  # more than one multiple of the slots that a step looks at


class Compared:
    """A decoder, and beside it what each row should hold."""

    def __init__(self, model: Any, plain: Any, rows: int) -> None:
        self.decoder = BatchDecoder(model, rows=rows, context=CONTEXT)
        self._plain = plain
        self.texts: list[list[int]] = [[] for _ in range(rows)]

    def step(self, tokens: Sequence[int]) -> None:
        logits = self.decoder.step(tokens)
        for row, (text, token) in enumerate(zip(self.texts, tokens, strict=True)):
            text.append(token)
            self._check(logits[row], text, f"row {row}, position {len(text) - 1}")
        assert self.decoder.lengths.tolist() == [len(text) for text in self.texts]

    def prefill(self, row: int, tokens: Sequence[int]) -> None:
        self.texts[row] = list(tokens)
        self._check(self.decoder.prefill(row, tokens), tokens, f"prefill of row {row}")

    def restart(self, rows: Sequence[int]) -> None:
        self.decoder.restart(rows)
        for row in rows:
            self.texts[row] = []

    def compact(self, rows: Sequence[int]) -> None:
        self.decoder.compact(rows)
        self.texts = [self.texts[row] for row in rows]

    def _check(self, logits: torch.Tensor, text: Sequence[int], where: str) -> None:
        with torch.inference_mode():
            expected = self._plain(torch.tensor([list(text)]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4, msg=lambda text: f"{where}: {text}")


@pytest.fixture
def compared(target: Any, plain: Any) -> Compared:
    return Compared(target, plain, rows=4)


def tokens(rows: int, at: int) -> list[int]:
    return [(37 * row + 11 * at + 5) % 258 for row in range(rows)]


def test_rows_are_sequences_of_their_own(compared: Compared) -> None:
    for at in range(4):
        compared.step(tokens(4, at))


def test_rows_at_different_positions(compared: Compared) -> None:
    for row, length in enumerate((1, 9, 70, 30)):
        compared.prefill(row, [(7 * row + at) % 258 for at in range(length)])
    for at in range(4):
        compared.step(tokens(4, at))


def test_a_row_that_restarts_sees_nothing_of_what_it_held(compared: Compared) -> None:
    for at in range(3):
        compared.step(tokens(4, at))
    compared.restart([2, 1])
    compared.restart([])
    compared.step(tokens(4, 3))
    compared.prefill(0, [1, 2])
    compared.step(tokens(4, 4))


def test_rows_that_are_left_go_on_as_they_were(compared: Compared) -> None:
    compared.prefill(3, [200, 100, 50])
    compared.step(tokens(4, 0))
    compared.compact([3, 1])
    compared.step(tokens(2, 1))
    compared.restart([1])
    compared.step(tokens(2, 2))


def test_up_to_the_last_position(compared: Compared) -> None:
    compared.prefill(1, [at % 258 for at in range(CONTEXT - 2)])
    compared.step(tokens(4, 0))
    compared.step(tokens(4, 1))


@pytest.mark.parametrize(
    "config", [{"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"head_dim": 12}, {"tie_word_embeddings": True}]
)
def test_other_shapes(tmp_path: Path, config: dict[str, Any]) -> None:
    directory = write_tiny_model(tmp_path / "m", seed=3, **config)
    model, plain = (
        read_model(directory, dtype=torch.float32, device=Device.CPU, attention=name)
        for name in (batched_attention_name(), "sdpa")
    )
    compared = Compared(model, plain, rows=3)
    compared.prefill(1, [9, 8, 7, 6])
    for at in range(2):
        compared.step(tokens(3, at))
