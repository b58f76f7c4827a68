"""Distil: make the drafter's law at every position the target's own (Hinton et al., arXiv 1503.02531).

The target's likeliest next tokens were kept when it wrote, so the target itself is not needed here. What is asked of
the drafter is the law at temperature 1, with extra weight on its best token: greedy answers need that one, sampled
ones and branches need the ranks behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wanspec_p2p.errors import EngineError
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.torch_checkpoint import Checkpoints
from wanspec_p2p.models.distill.torch_head import soft_cross_entropy
from wanspec_p2p.models.distill.torch_student import trained_parameters

__all__ = ["Reading", "Schedule", "Trainer", "head_tokens", "held_back"]

HEAD_MASS = 0.998
"""Share of the target's mass that the rows of the head trained over cover: a quarter of SmolLM2's vocabulary."""
HELD_BACK_EVERY = 40
"""Every so manieth dialogue is not trained on; see `held_back`."""
HELD_BACK_AT_MOST = 64
BEST_WEIGHT = 0.5
USER_WEIGHT = 0.5
"""Of the words the target wrote in the user's place: no drafter is asked for them, but they are its language."""
CLIP = 1.0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides a training run over a given corpus, besides the drafter it begins with."""

    epochs: float = 6.0
    batch_tokens: int = 4096
    peak: float = 2e-3
    warmup: float = 0.02
    weight_decay: float = 0.01
    seed: int = 0


class Reading(msgspec.Struct, frozen=True):
    """What the run says of itself now and then."""

    step: int
    steps: int
    tokens: int  # trained on so far, every epoch counted
    loss: float
    agreement: float | None  # with the target's best token on dialogues held back; now and then
    seconds: float  # of this process


@dataclass(frozen=True, slots=True)
class _Batch:
    ids: Tensor  # (rows, length)
    positions: Tensor  # (n,), flat: where a label is
    label_ids: Tensor  # (n, k), rows of the head
    label_weights: Tensor  # (n, k): each row sums to the weight of its position


def held_back(dialogues: int) -> range:
    """Which of so many dialogues are not trained on: what drafters, in training and afterwards, are measured on."""
    return range(HELD_BACK_EVERY - 1, dialogues, HELD_BACK_EVERY)


def head_tokens(dialogues: Iterable[Dialogue], vocabulary: int) -> NDArray[np.int64]:
    """The likeliest tokens, ascending, that together have HEAD_MASS of the target's mass over the corpus."""
    mass = np.zeros(vocabulary)
    for dialogue in dialogues:
        own = np.exp(dialogue.label_logprobs.reshape(-1).astype(np.float32))
        # add.at is fifteen times as slow where it has to convert, and there are hundreds of millions of labels.
        np.add.at(mass, dialogue.label_ids.reshape(-1), own.astype(np.float64))
        np.add.at(mass, dialogue.ids, 1e-6)
    order = np.argsort(-mass, kind="stable")
    covered = np.cumsum(mass[order])
    count = int(np.searchsorted(covered, HEAD_MASS * covered[-1])) + 1
    return np.sort(order[: min(-(-count // 256) * 256, vocabulary)])


class Trainer:
    """One training run over `dialogues`, repeatable: the order of everything follows from the schedule's seed.

    Args:
        student: as `build_student` makes it.
        dialogues: the corpus, in its order.
        checkpoints: where the run is kept; it goes on from what lies there.
    """

    def __init__(
        self, student: Any, dialogues: Sequence[Dialogue], schedule: Schedule, checkpoints: Checkpoints
    ) -> None:
        self.student = student
        self.schedule = schedule
        self._checkpoints = checkpoints
        self._device: torch.device = student.device
        kept = held_back(len(dialogues))
        self._held_back = [dialogues[i] for i in kept]
        self._dialogues = [dialogue for i, dialogue in enumerate(dialogues) if i not in kept]
        embedding = student.get_output_embeddings().weight.detach()
        head = head_tokens(dialogues, embedding.shape[0])
        self._head = embedding[torch.from_numpy(head).to(self._device)].to(torch.bfloat16)
        self._row_of = np.full(embedding.shape[0], -1, np.int64)
        self._row_of[head] = np.arange(len(head))
        self._plan = _plan([len(d.ids) for d in self._dialogues], schedule)
        self._parameters = trained_parameters(student)
        matrices = [p for p in self._parameters.values() if p.ndim == 2]
        others = [p for p in self._parameters.values() if p.ndim != 2]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=schedule.peak, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=schedule.peak, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.step = checkpoints.load(self._parameters, self._optimizers)

    @property
    def steps(self) -> int:
        return len(self._plan)

    def run(self, tell: Callable[[Reading], None], *, measure_every: int = 100) -> None:
        """Train to the end of the schedule, or on from where it was interrupted.

        Raises:
            EngineError: it diverged; the checkpoint is one of before.
        """
        begun = time.monotonic()
        tokens = sum(sum(len(self._dialogues[i].ids) for i in batch) for batch in self._plan[: self.step])
        self.student.train()
        while self.step < self.steps:
            batch = self._plan[self.step]
            loss = self._train(batch)
            self.step += 1
            tokens += sum(len(self._dialogues[i].ids) for i in batch)
            measured = self.step % measure_every == 0 or self.step == self.steps
            agreement = self.agreement() if measured else None
            tell(Reading(self.step, self.steps, tokens, loss, agreement, time.monotonic() - begun))
            if self._checkpoints.due() or self.step == self.steps:
                self._checkpoints.save(self.step, self._parameters, self._optimizers)
        self.student.eval()

    def _train(self, indices: Sequence[int]) -> float:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
            optimizer.zero_grad(set_to_none=True)
        batch = self._batch([self._dialogues[i] for i in indices])
        loss = self._loss(batch)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), CLIP)
        if not math.isfinite(float(loss.detach()) + float(norm)):
            raise EngineError(
                f"training diverged at step {self.step + 1} of {self.steps}: delete the drafter's folder (layers-…) "
                "and begin anew with a smaller --peak"
            )
        for optimizer in self._optimizers:
            optimizer.step()
        return float(loss.detach())

    def _rate(self) -> float:
        """Up in a line, down in a line to nothing."""
        warmup = max(1.0, self.schedule.warmup * self.steps)
        return self.schedule.peak * min((self.step + 1) / warmup, (self.steps - self.step) / (self.steps - warmup + 1))

    def _batch(self, dialogues: Sequence[Dialogue]) -> _Batch:
        length = max(len(d.ids) for d in dialogues)
        ids = np.zeros((len(dialogues), length), np.int64)
        positions, label_ids, label_weights = [], [], []
        for row, dialogue in enumerate(dialogues):
            ids[row, : len(dialogue.ids)] = dialogue.ids
            own, weights = self._labels(dialogue)
            positions.append(row * length + own)
            label_ids.append(np.maximum(self._row_of[dialogue.label_ids[own]], 0))
            label_weights.append(weights)
        tensors = (ids, np.concatenate(positions), np.concatenate(label_ids), np.concatenate(label_weights))
        return _Batch(*(torch.from_numpy(array).to(self._device) for array in tensors))

    def _labels(self, dialogue: Dialogue) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions whose next token the target chose, and the weight of each label there."""
        following = dialogue.origins[1:]
        own = np.flatnonzero(following != Origin.GIVEN)
        known = self._row_of[dialogue.label_ids[own]] >= 0
        weights = np.exp(dialogue.label_logprobs[own].astype(np.float32)) * known
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-9)
        weights[:, 0] += BEST_WEIGHT * known[:, 0]
        weights /= 1 + BEST_WEIGHT
        return own, weights * np.where(following[own] == Origin.ANSWER, 1.0, USER_WEIGHT)[:, None].astype(np.float32)

    def _loss(self, batch: _Batch) -> Tensor:
        hidden = self._hidden(batch.ids, batch.positions)
        weight = batch.label_weights.sum().clamp(min=1e-9)  # a dialogue may be all given, and fill a batch
        return soft_cross_entropy(hidden, self._head, batch.label_ids, batch.label_weights) / weight

    def _hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states at flat `positions`. Padding lies behind every real token, so causality hides it."""
        with torch.autocast(self._device.type, torch.bfloat16):
            hidden: Tensor = self.student.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[positions]

    @torch.no_grad()
    def agreement(self) -> float | None:
        """Share of an answer's positions, on dialogues held back, where the drafter's best token is the target's."""
        right = asked = 0
        for dialogue in self._held_back[:HELD_BACK_AT_MOST]:
            own = np.flatnonzero(dialogue.origins[1:] == Origin.ANSWER)
            ids = torch.from_numpy(dialogue.ids.astype(np.int64))[None].to(self._device)
            hidden = self._hidden(ids, torch.from_numpy(own).to(self._device))
            best = (hidden.to(self._head.dtype) @ self._head.T).argmax(-1).cpu().numpy()
            right += int(np.count_nonzero(best == self._row_of[dialogue.label_ids[own, 0]]))
            asked += len(own)
        return right / asked if asked else None


def _plan(lengths: Sequence[int], schedule: Schedule) -> list[list[int]]:
    """Batches of dialogues of about one length, so that little is padding; in an order of the seed's choosing."""
    random = np.random.Generator(np.random.Philox(key=schedule.seed))
    plan: list[list[int]] = []
    for epoch in range(math.ceil(schedule.epochs)):
        order = random.permutation(len(lengths)).tolist()
        batches: list[list[int]] = []
        window = 2048
        for at in range(0, len(order), window):
            batches += _cut(sorted(order[at : at + window], key=lambda i: lengths[i]), lengths, schedule.batch_tokens)
        shuffled = [batches[i] for i in random.permutation(len(batches))]
        plan += shuffled[: math.ceil(len(shuffled) * min(1.0, schedule.epochs - epoch))]
    return plan


def _cut(ordered: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Consecutive dialogues whose padded size stays within `batch_tokens`."""
    batches: list[list[int]] = [[]]
    for index in ordered:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches
