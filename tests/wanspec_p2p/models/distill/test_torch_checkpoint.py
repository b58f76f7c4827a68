from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.torch_checkpoint import Checkpoints

Parameters = dict[str, torch.nn.Parameter]


def make(seed: int) -> tuple[Parameters, list[torch.optim.Optimizer]]:
    random = torch.Generator().manual_seed(seed)
    parameters = {
        "matrix": torch.nn.Parameter(torch.randn(4, 4, generator=random)),
        "norm": torch.nn.Parameter(torch.randn(4, generator=random)),
    }
    return parameters, [
        torch.optim.Muon([parameters["matrix"]], lr=0.1),
        torch.optim.AdamW([parameters["norm"]], lr=0.1),
    ]


def step(parameters: Parameters, optimizers: list[torch.optim.Optimizer], at: int) -> None:
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 0.1 * at) + parameter.detach() * (number + 1)
    for optimizer in optimizers:
        optimizer.step()


def test_what_is_put_back_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    ours, optimizers = make(0)
    for at in range(3):
        step(ours, optimizers, at)
    Checkpoints(tmp_path / "c", "run").save(3, ours, optimizers)
    theirs, others = make(1)
    assert Checkpoints(tmp_path / "c", "run").load(theirs, others) == 3
    for at in range(3, 6):
        step(ours, optimizers, at)
        step(theirs, others, at)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_a_checkpoint_nothing_is_done(tmp_path: Path) -> None:
    parameters, optimizers = make(0)
    before = parameters["matrix"].clone()
    assert Checkpoints(tmp_path / "c", "run").load(parameters, optimizers) == 0
    assert torch.equal(parameters["matrix"], before)


def test_one_of_another_run_is_refused(tmp_path: Path) -> None:
    parameters, optimizers = make(0)
    Checkpoints(tmp_path / "c", "run").save(1, parameters, optimizers)
    with pytest.raises(ConfigError, match="belongs to a run with other settings"):
        Checkpoints(tmp_path / "c", "other").load(parameters, optimizers)


@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_damaged_one_is_refused(tmp_path: Path, cut: int) -> None:
    parameters, optimizers = make(0)
    checkpoints = Checkpoints(tmp_path / "c", "run")
    checkpoints.save(1, parameters, optimizers)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:cut])
    with pytest.raises(ConfigError, match="is damaged .*: delete it to train from the beginning"):
        checkpoints.load(parameters, optimizers)


def test_it_is_due_every_so_many_seconds(tmp_path: Path) -> None:
    now = [0.0]
    parameters, optimizers = make(0)
    checkpoints = Checkpoints(tmp_path / "c", "run", every=10, now=lambda: now[0])
    now[0] = 9.9
    assert not checkpoints.due()
    now[0] = 10.0
    assert checkpoints.due()
    checkpoints.save(1, parameters, optimizers)
    assert not checkpoints.due()


def test_one_half_written_counts_for_nothing(tmp_path: Path) -> None:
    parameters, optimizers = make(0)
    checkpoints = Checkpoints(tmp_path / "c", "run")
    checkpoints.save(5, parameters, optimizers)
    (tmp_path / ".c.partial").write_bytes(b"half")
    assert checkpoints.load(parameters, optimizers) == 5
