"""A target writes dialogues: every row of the batch follows a script of its own and takes up the next when it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.dialogues import Frame, Script
from wanspec_p2p.models.distill.torch_decoder import BatchDecoder
from wanspec_p2p.types import TokenId

__all__ = ["CONTEXT", "LABELS", "Limits", "write_dialogues"]

CONTEXT = 704
"""Tokens of a dialogue, at most, where the target has room for so many."""

LABELS = 32
"""Likeliest next tokens kept beside each position: about 0.95 of SmolLM2's mass at temperature 1."""
CHOICES = 64
"""Sampled from the likeliest this many: what a small model writes from its tail is no text."""
USER_TEMPERATURE = 0.9


@dataclass(frozen=True, slots=True)
class Limits:
    """In tokens. A second turn and its answer are shorter, so that a dialogue fits the rows' context."""

    user: int = 256
    answer: int = 288
    next_user: int = 48
    next_answer: int = 128

    @classmethod
    def within(cls, context: int) -> Limits:
        """Smaller in proportion for a target whose context has no room for CONTEXT tokens."""
        share, whole = min(1.0, context / CONTEXT), cls()
        wanted = (whole.user, whole.answer, whole.next_user, whole.next_answer)
        return cls(*(max(1, int(share * tokens)) for tokens in wanted))

    def of(self, turn: int) -> tuple[int, int]:
        return (self.user, self.answer) if turn == 0 else (self.next_user, self.next_answer)


@dataclass(slots=True)
class _Row:
    """One dialogue being written."""

    index: int
    script: Script
    frame: Frame
    eos: frozenset[TokenId]
    limits: Limits
    context: int
    ids: list[TokenId] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    done: bool = False
    _queue: deque[TokenId] = field(default_factory=deque)
    _turn: int = -1
    _asking: bool = True  # the user's words come next
    _left: int = 0  # tokens until these words must end

    def __post_init__(self) -> None:
        self._begin_turn(self.frame.before)

    @property
    def temperature(self) -> float:
        return USER_TEMPERATURE if self._asking else self.script.temperature

    def take(self, sampled: TokenId) -> None:
        """The target's word for the next token: followed, unless the script has one of its own."""
        if self._queue:
            self._append(self._queue.popleft(), Origin.GIVEN)
        else:
            self._follow(sampled)
        if len(self.ids) >= self.context:
            self.done = True

    def _follow(self, sampled: TokenId) -> None:
        if sampled not in self.eos:
            self._append(sampled, Origin.USER if self._asking else Origin.ANSWER)
            self._left -= 1
            if self._left == 0:
                self._end_words(ended=False)
        elif self._asking:
            self._begin_answer()
            self._append(self._queue.popleft(), Origin.GIVEN)
        else:
            self._append(sampled, Origin.ANSWER)
            self._end_words(ended=True)

    def _end_words(self, *, ended: bool) -> None:
        if self._asking:
            self._begin_answer()
        elif ended and self._turn + 1 < len(self.script.turns):
            between = self.frame.between
            self._begin_turn(between[1:] if between[0] in self.eos else between)
        else:
            self.done = True

    def _begin_turn(self, lead: Sequence[TokenId]) -> None:
        self._turn += 1
        turn = self.script.turns[self._turn]
        self._queue.extend(lead)
        self._queue.extend(turn.tokens)
        self._asking, self._left = True, self.limits.of(self._turn)[0]
        if not turn.open:
            self._begin_answer()

    def _begin_answer(self) -> None:
        self._queue.extend(self.frame.middle)
        self._asking, self._left = False, self.limits.of(self._turn)[1]

    def _append(self, token: TokenId, origin: Origin) -> None:
        self.ids.append(token)
        self.origins.append(int(origin))


def write_dialogues(
    model: Any,
    scripts: Sequence[Script],
    *,
    frame: Frame,
    eos: frozenset[TokenId],
    vocab_size: int,
    rows: int,
    context: int,
    seed: int,
    limits: Limits | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[Dialogue]:
    """Let `model` write one dialogue a script, `rows` of them at a time.

    Args:
        model: as `BatchDecoder` wants it.
        eos: tokens that end a turn.
        vocab_size: ids from here on are padding of the model's head and never chosen.
        context: tokens of a dialogue, at most.
        seed: of the sampling; the same call on the same machine writes the same dialogues.
        limits: by default those that fit `context`.
        progress: told the number of tokens written so far.

    Returns:
        A dialogue for each script, in the order of the scripts.
    """
    limits = limits or Limits.within(context)
    writer = _Writer(model, scripts, frame, eos, vocab_size, min(rows, len(scripts)), context, seed, limits)
    while writer.rows:
        writer.step()
        progress(writer.written)
    return [writer.finished[index] for index in range(len(scripts))]


class _Writer:
    def __init__(
        self,
        model: Any,
        scripts: Sequence[Script],
        frame: Frame,
        eos: frozenset[TokenId],
        vocab_size: int,
        rows: int,
        context: int,
        seed: int,
        limits: Limits,
    ) -> None:
        self.decoder = BatchDecoder(model, rows=rows, context=context)
        self.finished: dict[int, Dialogue] = {}
        self.written = 0
        self._waiting = deque(_Row(index, script, frame, eos, limits, context) for index, script in enumerate(scripts))
        self.rows = [self._next() for _ in range(rows)]
        self._vocab_size = vocab_size
        self._random = torch.Generator(model.device).manual_seed(seed)
        self._label_ids = torch.zeros(rows, context, LABELS, dtype=torch.int32, device=model.device)
        self._label_logprobs = torch.full((rows, context, LABELS), -torch.inf, dtype=torch.float16, device=model.device)

    def _next(self) -> _Row:
        row = self._waiting.popleft()
        row.take(-1)  # a dialogue always begins with a token of its frame
        return row

    def step(self) -> None:
        positions = self.decoder.lengths
        logits = self.decoder.step([row.ids[-1] for row in self.rows])
        sampled = self._sample(logits, positions)
        for row, token in zip(self.rows, sampled, strict=True):
            if not row.done:
                row.take(token)
                self.written += row.origins[-1] != Origin.GIVEN
        self._replace_done()

    @torch.inference_mode()
    def _sample(self, logits: Tensor, positions: Tensor) -> list[TokenId]:
        logits = logits[:, : self._vocab_size]
        top = logits.topk(min(CHOICES, logits.shape[1]))
        scores = top.values.float()
        logprobs = scores - logits.float().logsumexp(-1, keepdim=True)
        at = torch.arange(len(self.rows), device=logits.device)
        kept = min(LABELS, scores.shape[1])
        self._label_ids[at, positions, :kept] = top.indices[:, :kept].int()
        self._label_logprobs[at, positions, :kept] = logprobs[:, :kept].half()
        temperatures = torch.tensor([row.temperature for row in self.rows], device=logits.device)[:, None]
        noise = torch.empty_like(scores).exponential_(generator=self._random).log_().neg_()
        perturbed = scores / temperatures.clamp(min=1e-6) + noise
        pick = torch.where(temperatures == 0, scores, perturbed).argmax(-1, keepdim=True)
        chosen: list[TokenId] = top.indices.gather(1, pick)[:, 0].tolist()
        return chosen

    @torch.inference_mode()
    def _replace_done(self) -> None:
        """A row that ended takes up the next script; without one it is dropped once half of the rows are idle."""
        begun = []
        for at, row in enumerate(self.rows):
            if row.done and row.index not in self.finished:
                self.finished[row.index] = self._dialogue(at, row)
                if self._waiting:
                    self.rows[at] = self._next()
                    begun.append(at)
        idle = [at for at, row in enumerate(self.rows) if row.index in self.finished]
        self.decoder.restart(begun + idle)  # idle ones run at position 0, where they cost least
        busy = [at for at, row in enumerate(self.rows) if row.index not in self.finished]
        if len(busy) <= len(self.rows) // 2:
            self.decoder.compact(busy)
            index = torch.tensor(busy, dtype=torch.int64, device=self._label_ids.device)
            self._label_ids, self._label_logprobs = self._label_ids[index], self._label_logprobs[index]
            self.rows = [self.rows[at] for at in busy]

    def _dialogue(self, at: int, row: _Row) -> Dialogue:
        length = len(row.ids)
        # Copies: on a CPU they would otherwise be views, and the next dialogue of this row would write over them.
        label_ids = self._label_ids[at, :length].cpu().numpy().copy()
        label_logprobs = self._label_logprobs[at, :length].cpu().numpy().copy()
        label_logprobs[length - 1] = -np.inf
        return Dialogue(
            kind=row.script.kind,
            temperature=row.script.temperature,
            ids=np.array(row.ids, np.int32),
            origins=np.array(row.origins, np.uint8),
            label_ids=label_ids,
            label_logprobs=label_logprobs,
        )
