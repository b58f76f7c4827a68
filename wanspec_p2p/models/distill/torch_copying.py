"""How much a drafter should trust what it could copy: fitted on dialogues that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec_p2p.models.copying import MOST, CopyWeights
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.repeats import Repeat, RepeatIndex

__all__ = ["fit_copying", "likeliest_weights"]

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Of the shortest match in each group that has a weight of its own."""
DIALOGUES = 256
"""At most: ten weights need no more."""
PRIOR = 4.0
"""Positions' worth of belief that a longer match counts as much as the next shorter one, and the shortest nothing."""
STEPS = 200


def fit_copying(student: Any, held_back: Sequence[Dialogue]) -> CopyWeights | None:
    """The weights under which the target's answers in dialogues held back are likeliest; None where there are none.

    Args:
        student: in evaluation mode.
    """
    matches: list[int] = []
    chances: list[tuple[float, float]] = []
    for dialogue in held_back[:DIALOGUES]:
        found = {at: repeat for at, repeat in _repeats(dialogue).items() if repeat is not None}
        if not found:
            continue
        model = _chances(student, dialogue, list(found))
        for (at, repeat), chance in zip(found.items(), model, strict=True):
            matches.append(repeat.length)
            chances.append((float(chance), repeat.shares.get(int(dialogue.ids[at + 1]), 0.0)))
    if not matches:
        return None
    groups = np.searchsorted(LENGTHS, matches, side="right") - 1
    return CopyWeights(LENGTHS, likeliest_weights(np.array(chances), groups, len(LENGTHS)))


def _repeats(dialogue: Dialogue) -> dict[int, Repeat | None]:
    """What could be copied behind each position whose next token is an answer's."""
    index, found = RepeatIndex(), {}
    for at, token in enumerate(dialogue.ids[:-1].tolist()):
        index.extend([token])
        if dialogue.origins[at + 1] == Origin.ANSWER:
            found[at] = index.repeat()
    return found


@torch.no_grad()
def _chances(student: Any, dialogue: Dialogue, positions: Sequence[int]) -> NDArray[np.float32]:
    """The student's probability, at temperature 1, of the token behind each of `positions`."""
    ids = torch.from_numpy(dialogue.ids.astype(np.int64)).to(student.device)
    places = torch.tensor(positions, device=student.device)
    hidden = student.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, places]
    law = student.get_output_embeddings()(hidden).float().softmax(-1)
    chances: NDArray[np.float32] = law.gather(-1, ids[places + 1, None])[:, 0].cpu().numpy()
    return chances


def likeliest_weights(chances: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> tuple[float, ...]:
    """For each group the weight w that makes (1 - w) · model + w · copy likeliest (EM; Dempster, Laird, Rubin 1977).

    Args:
        chances: shape (n, 2), what model and copy gave to the token that came.
        groups: shape (n,), from 0 to `count` - 1, shorter matches first.
    """
    weights: list[float] = []
    before = 0.0
    for group in range(count):
        model, copy = chances[groups == group].T
        weight = 0.5
        for _ in range(STEPS):
            share = weight * copy / np.maximum((1 - weight) * model + weight * copy, np.finfo(np.float64).tiny)
            weight = (float(share.sum()) + PRIOR * before) / (len(share) + PRIOR)
        weights.append(before := min(round(weight, 4), MOST))
    return tuple(weights)
