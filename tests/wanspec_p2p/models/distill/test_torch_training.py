"""Training is repeatable to the bit, interrupted or not, and what is learnt is the target's law."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.wanspec_p2p.models.distill.conftest import VOCABULARY
from wanspec_p2p.errors import ConfigError, EngineError
from wanspec_p2p.models.distill import torch_training
from wanspec_p2p.models.distill.corpus import Dialogue, Origin
from wanspec_p2p.models.distill.torch_checkpoint import Checkpoints
from wanspec_p2p.models.distill.torch_student import build_student, trained_parameters
from wanspec_p2p.models.distill.torch_training import (
    BEST_WEIGHT,
    HEAD_MASS,
    HELD_BACK_EVERY,
    USER_WEIGHT,
    Reading,
    Schedule,
    Trainer,
    head_tokens,
)
from wanspec_p2p.types import Device

SCHEDULE = Schedule(epochs=3, batch_tokens=512, peak=2e-2, seed=7)


class Interrupted(Exception):
    """What ends a training in the middle where no process has to be killed."""


def trainer(
    target: Path, dialogues: list[Dialogue], path: Path, *, schedule: Schedule = SCHEDULE, every: float = 1e9
) -> Trainer:
    torch.manual_seed(hash(path) % 2**32)  # nothing may hang on what happened before
    student = build_student(target, layers=[0, 2], width=None, device=Device.CPU)
    return Trainer(student, dialogues, schedule, Checkpoints(path, "run", every=every))


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained_parameters(made.student).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(step: int) -> object:
    def tell(reading: Reading) -> None:
        if reading.step == step:
            raise Interrupted

    return tell


@pytest.fixture(scope="module")
def whole(
    target_directory: Path, dialogues: list[Dialogue], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Reading], dict[str, torch.Tensor]]:
    """A run that nobody interrupted."""
    torch.set_num_threads(1)
    made = trainer(target_directory, dialogues, tmp_path_factory.mktemp("whole") / "c")
    readings: list[Reading] = []
    made.run(readings.append, measure_every=5)
    return readings, weights(made)


def test_loss_falls_and_agreement_rises(
    whole: tuple[list[Reading], dict[str, torch.Tensor]],
    target_directory: Path,
    dialogues: list[Dialogue],
    tmp_path: Path,
) -> None:
    readings, _ = whole
    before = trainer(target_directory, dialogues, tmp_path / "c").agreement()
    assert readings[-1].loss < readings[0].loss - 0.3
    assert before is not None and readings[-1].agreement is not None
    assert readings[-1].agreement > before + 0.05


def test_readings_count_steps_and_tokens(
    whole: tuple[list[Reading], dict[str, torch.Tensor]], dialogues: list[Dialogue]
) -> None:
    readings, _ = whole
    assert [reading.step for reading in readings] == list(range(1, len(readings) + 1))
    assert {reading.steps for reading in readings} == {len(readings)}
    assert [r.step for r in readings if r.agreement is not None] == [
        step for step in range(1, len(readings) + 1) if step % 5 == 0 or step == len(readings)
    ]
    trained = [d for i, d in enumerate(dialogues) if (i + 1) % HELD_BACK_EVERY]
    assert readings[-1].tokens == 3 * sum(len(d.ids) for d in trained)


def test_a_training_that_diverges_ends_with_one_line(
    target_directory: Path, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    made = trainer(target_directory, dialogues, tmp_path / "c", every=0)

    def spoil(reading: Reading) -> None:
        if reading.step == 2:
            with torch.no_grad():
                next(iter(trained_parameters(made.student).values())).view(-1)[0] = torch.inf

    with pytest.raises(EngineError, match="training diverged at step 3 of .* begin anew with a smaller --peak"):
        made.run(spoil)


def test_a_dialogue_with_nothing_to_learn_changes_nothing(
    target_directory: Path, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    given = dataclasses.replace(dialogues[0], origins=np.zeros_like(dialogues[0].origins))
    made = trainer(target_directory, [given], tmp_path / "c")
    readings: list[Reading] = []
    made.run(readings.append)
    assert {reading.loss for reading in readings} == {0.0}


def test_the_same_seed_and_data_give_the_same_weights(
    whole: tuple[list[Reading], dict[str, torch.Tensor]],
    target_directory: Path,
    dialogues: list[Dialogue],
    tmp_path: Path,
) -> None:
    again = trainer(target_directory, dialogues, tmp_path / "c")
    again.run(lambda reading: None)
    assert same(weights(again), whole[1])


@pytest.mark.parametrize("step", [1, 8])
def test_an_interrupted_run_ends_with_the_same_weights(
    whole: tuple[list[Reading], dict[str, torch.Tensor]],
    target_directory: Path,
    dialogues: list[Dialogue],
    tmp_path: Path,
    step: int,
) -> None:
    first = trainer(target_directory, dialogues, tmp_path / "c", every=0)
    with pytest.raises(Interrupted):
        first.run(interrupt_at(step + 1))  # type: ignore[arg-type]  # a step that was done, and not yet kept
    second = trainer(target_directory, dialogues, tmp_path / "c")
    assert second.step == step
    readings: list[Reading] = []
    second.run(readings.append)
    assert same(weights(second), whole[1])
    assert readings[-1].tokens == whole[0][-1].tokens
    done = trainer(target_directory, dialogues, tmp_path / "c")
    done.run(lambda reading: pytest.fail("trained on although it was done"))
    assert same(weights(done), whole[1])


KILLED = """
import pickle, sys, time
from pathlib import Path
import torch
from wanspec_p2p.models.distill.torch_checkpoint import Checkpoints
from wanspec_p2p.models.distill.torch_student import build_student
from wanspec_p2p.models.distill.torch_training import Schedule, Trainer
from wanspec_p2p.types import Device

torch.set_num_threads(1)
target, corpus, checkpoint, schedule = sys.argv[1:]
student = build_student(Path(target), layers=[0, 2], width=None, device=Device.CPU)
dialogues = pickle.loads(Path(corpus).read_bytes())
trainer = Trainer(student, dialogues, Schedule(**eval(schedule)), Checkpoints(Path(checkpoint), "run", every=0))

def tell(reading):
    if reading.step == 6:
        print("step 6", flush=True)
        sys.stdin.readline()

trainer.run(tell)
"""


def test_a_killed_process_leaves_what_another_goes_on_from(
    whole: tuple[list[Reading], dict[str, torch.Tensor]],
    target_directory: Path,
    dialogues: list[Dialogue],
    tmp_path: Path,
) -> None:
    (tmp_path / "corpus").write_bytes(pickle.dumps(dialogues))
    settings = {name: getattr(SCHEDULE, name) for name in Schedule.__struct_fields__}
    arguments = [str(target_directory), str(tmp_path / "corpus"), str(tmp_path / "c"), repr(settings)]
    command = [sys.executable, "-c", KILLED, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step 6\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
    resumed = trainer(target_directory, dialogues, tmp_path / "c")
    assert resumed.step == 5
    resumed.run(lambda reading: None)
    assert same(weights(resumed), whole[1])


def test_a_checkpoint_of_another_run_is_refused(
    target_directory: Path, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    first = trainer(target_directory, dialogues, tmp_path / "c", every=0)
    with pytest.raises(Interrupted):
        first.run(interrupt_at(2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="belongs to a run with other settings"):
        Trainer(first.student, dialogues, SCHEDULE, Checkpoints(tmp_path / "c", "another run"))


def test_every_dialogue_comes_once_an_epoch_and_batches_stay_small() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 300, 5000).tolist()
    plan = torch_training._plan(lengths, Schedule(epochs=2, batch_tokens=1024, seed=3))
    half = next(i for i in range(len(plan)) if sum(len(batch) for batch in plan[: i + 1]) == 5000) + 1
    for epoch in (plan[:half], plan[half:]):
        assert Counter(i for batch in epoch for i in batch) == Counter(range(5000))
    assert plan[:half] != plan[half:]
    padded = [len(batch) * max(lengths[i] for i in batch) for batch in plan]
    assert max(padded) <= 1024
    assert sum(lengths) * 2 / sum(padded) > 0.9  # little is padding
    assert plan == torch_training._plan(lengths, Schedule(epochs=2, batch_tokens=1024, seed=3))
    assert plan != torch_training._plan(lengths, Schedule(epochs=2, batch_tokens=1024, seed=4))


def test_part_of_an_epoch_and_a_dialogue_beyond_the_batch() -> None:
    plan = torch_training._plan([10] * 100, Schedule(epochs=1.5, batch_tokens=100))
    assert len(plan) == 15
    assert torch_training._plan([500, 2], Schedule(epochs=1, batch_tokens=100)) in ([[0], [1]], [[1], [0]])
    assert torch_training._plan([], Schedule()) == []


def test_the_rate_goes_up_in_a_line_and_down_to_nothing(
    target_directory: Path, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=10, batch_tokens=256, peak=1.0, warmup=0.1)
    made = trainer(target_directory, dialogues, tmp_path / "c", schedule=schedule)
    rates = []
    for step in range(made.steps):
        made.step = step
        rates.append(made._rate())
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert top / made.steps == pytest.approx(0.1, abs=0.02)
    assert max(rates) <= 1.0 and rates[-1] < 0.01


def test_the_head_covers_what_the_target_says(dialogues: list[Dialogue]) -> None:
    # A vocabulary so large that most of it never occurs.
    head = head_tokens(dialogues, 5000)
    assert head.tolist() == sorted(set(head.tolist())) and len(head) % 256 == 0
    mass = np.zeros(5000)
    for dialogue in dialogues:
        np.add.at(mass, dialogue.label_ids.ravel(), np.exp(dialogue.label_logprobs.ravel().astype(np.float64)))
    assert mass[head].sum() / mass.sum() > HEAD_MASS
    assert set(range(VOCABULARY)) & set(np.flatnonzero(mass)) <= set(head.tolist()) | set(np.flatnonzero(mass < 1))
    assert len(head_tokens(dialogues, 100 * 256)) == len(head)


def test_labels_weigh_answers_whole_and_users_words_half(
    target_directory: Path, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    made = trainer(target_directory, dialogues, tmp_path / "c")
    one = max(dialogues, key=lambda d: d.generated)
    positions, label_weights = made._labels(one)
    assert positions.tolist() == [i - 1 for i in range(len(one.ids)) if one.origins[i] != Origin.GIVEN]
    for position, own in zip(positions, label_weights, strict=True):
        law = np.exp(one.label_logprobs[position].astype(np.float64))
        expected = law / law.sum()
        expected[0] += BEST_WEIGHT
        expected /= 1 + BEST_WEIGHT
        expected *= 1.0 if one.origins[position + 1] == Origin.ANSWER else USER_WEIGHT
        np.testing.assert_allclose(own, expected, rtol=1e-4)


def test_too_few_dialogues_hold_nothing_back(target_directory: Path, dialogues: list[Dialogue], tmp_path: Path) -> None:
    made = trainer(target_directory, dialogues[:20], tmp_path / "c")
    readings: list[Reading] = []
    made.run(readings.append)
    assert readings and readings[-1].agreement is None
