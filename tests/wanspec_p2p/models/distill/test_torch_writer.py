"""Dialogues follow their scripts, and beside each token lies the law it was drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.wanspec_p2p.models.distill.conftest import END, FRAME, TURN, VOCABULARY, scripts, write
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.dialogues import Script, Turn
from wanspec_p2p.models.distill.torch_writer import CONTEXT, LABELS, Limits

NEVER_ENDS = 1e4
GIVEN, USER, ANSWER = Origin.GIVEN, Origin.USER, Origin.ANSWER


class Steered:
    """The target, whose chance of ending its words is set by a test."""

    def __init__(self, model: Any, end: float) -> None:
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self._model, self._end = model, end

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._model(*args, **kwargs)
        out.logits[..., END] += self._end
        return out


def parts(dialogue: Dialogue) -> list[tuple[Origin, list[int]]]:
    """Runs of tokens of one origin."""
    found: list[tuple[Origin, list[int]]] = []
    for token, origin in zip(dialogue.ids.tolist(), dialogue.origins.tolist(), strict=True):
        if not found or found[-1][0] != origin:
            found.append((Origin(origin), []))
        found[-1][1].append(token)
    return found


def test_a_script_is_followed(target: Any) -> None:
    [dialogue] = write(Steered(target, -NEVER_ENDS), scripts(1))
    (begin, opening), (asked, words), (between, middle), (last, answer) = parts(dialogue)
    assert (begin, asked, between, last) == (GIVEN, USER, GIVEN, ANSWER)
    assert opening == [*FRAME.before, 65]  # the opening is forced, whatever the target would say
    assert middle == list(FRAME.middle)
    assert (len(words), len(answer)) == (8, 24)  # cut off at their limits
    assert (dialogue.kind, dialogue.temperature) == ("letters", 0.0)


def test_the_end_of_words_is_the_templates_in_a_question_and_the_targets_in_an_answer(target: Any) -> None:
    [dialogue] = write(Steered(target, NEVER_ENDS), [Script("k", 1.0, (Turn((65,), open=True),))])
    assert parts(dialogue) == [(GIVEN, [*FRAME.before, 65, *FRAME.middle]), (ANSWER, [END])]


def test_a_second_turn_goes_on_behind_the_answers_end(target: Any) -> None:
    [dialogue] = write(Steered(target, NEVER_ENDS), scripts(1, turns=2))
    assert parts(dialogue) == [
        (GIVEN, [*FRAME.before, 65, *FRAME.middle]),
        (ANSWER, [END]),
        (GIVEN, [*FRAME.between[1:], *FRAME.middle]),
        (ANSWER, [END]),
    ]


def test_an_answer_that_was_cut_off_has_no_second_turn(target: Any) -> None:
    [dialogue] = write(Steered(target, -NEVER_ENDS), scripts(1, turns=2), context=200)
    assert [origin for origin, _ in parts(dialogue)] == [GIVEN, USER, GIVEN, ANSWER]


def test_a_prompt_that_was_brought_is_not_written_on(target: Any) -> None:
    brought = Script("brought", 0.0, (Turn((70, 71, 72), open=False),))
    [dialogue] = write(Steered(target, -NEVER_ENDS), [brought])
    assert parts(dialogue)[0] == (GIVEN, [*FRAME.before, 70, 71, 72, *FRAME.middle])
    assert [origin for origin, _ in parts(dialogue)] == [GIVEN, ANSWER]


def test_no_dialogue_is_longer_than_the_context(target: Any) -> None:
    written = write(target, scripts(6, turns=2), context=20, limits=Limits(), rows=3)
    assert max(len(dialogue.ids) for dialogue in written) == 20


def test_every_script_is_written_once_and_in_order(target: Any) -> None:
    wanted = scripts(23, turns=2)
    written = write(target, wanted, rows=5)
    assert [int(dialogue.ids[len(FRAME.before)]) for dialogue in written] == [65 + i for i in range(23)]
    assert [dialogue.temperature for dialogue in written] == [script.temperature for script in wanted]


def test_nothing_to_write(target: Any) -> None:
    assert write(target, []) == []


def test_labels_are_the_targets_law_after_each_token(target: Any, plain: Any) -> None:
    # Rows end at different times and are taken up, dropped and moved on the way.
    for dialogue in write(target, scripts(9, turns=2), rows=4):
        with torch.inference_mode():
            logits = plain(torch.from_numpy(dialogue.ids.astype(np.int64))[None], use_cache=False).logits[0]
        law = logits[:, :VOCABULARY].log_softmax(-1)
        last = len(dialogue.ids) - 1
        expected = law.topk(LABELS).values[:last].numpy()
        np.testing.assert_allclose(dialogue.label_logprobs[:last].astype(np.float32), expected, atol=0.01)
        own = law.gather(1, torch.from_numpy(dialogue.label_ids.astype(np.int64)))[:last].numpy()
        np.testing.assert_allclose(own, expected, atol=1e-3)
        assert np.all(dialogue.label_logprobs[last] == -np.inf)


def test_at_temperature_0_an_answer_takes_its_first_label(target: Any) -> None:
    greedy, drawn = write(target, scripts(2))
    for dialogue, always in ((greedy, True), (drawn, False)):
        at = np.flatnonzero(dialogue.origins[1:] == ANSWER)
        assert np.all(dialogue.ids[at + 1] == dialogue.label_ids[at, 0]) == always


def test_the_same_seed_writes_the_same(target: Any) -> None:
    one, same, other = (write(target, scripts(7), rows=3, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.label_logprobs, b.label_logprobs)
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))


def test_padding_of_the_vocabulary_is_never_chosen(target: Any) -> None:
    assert target.config.vocab_size > VOCABULARY
    padding = torch.zeros(target.config.vocab_size)
    padding[VOCABULARY:] = NEVER_ENDS

    class Padded(Steered):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            out = self._model(*args, **kwargs)
            out.logits = out.logits + padding
            return out

    [dialogue] = write(Padded(target, 0), scripts(1))
    assert dialogue.ids.max() < VOCABULARY and dialogue.label_ids.max() < VOCABULARY


def test_progress_counts_what_the_target_wrote(target: Any) -> None:
    told: list[int] = []
    written = write(target, scripts(4), rows=2, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == sum(dialogue.generated for dialogue in written)


@pytest.mark.parametrize("context", [704, 5000])
def test_limits_are_whole_where_there_is_room(context: int) -> None:
    assert Limits.within(context) == Limits() and CONTEXT == 704


def test_limits_shrink_with_the_context() -> None:
    assert Limits.within(352) == Limits(128, 144, 24, 64)
    assert Limits.within(1) == Limits(1, 1, 1, 1)


def test_the_frame_begins_with_a_token_of_its_own(target: Any) -> None:
    assert {int(dialogue.ids[0]) for dialogue in write(target, scripts(3))} == {TURN}
