"""A training run that may be killed at any moment: weights and optimizer in one file, replaced as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.files import replace_file

__all__ = ["Checkpoints"]

EVERY_SECONDS = 180.0


class Checkpoints:
    """The latest checkpoint at `path`.

    Args:
        run: what decides the run; a checkpoint of another one is refused.
        now: seconds, monotonic.
    """

    def __init__(
        self, path: Path, run: str, *, every: float = EVERY_SECONDS, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._run = run
        self._every = every
        self._now = now
        self._saved = now()

    def due(self) -> bool:
        return self._now() - self._saved >= self._every

    def save(
        self, step: int, parameters: Mapping[str, torch.Tensor], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        """Raises:
        ConfigError: the disk is full.
        """
        names = {id(parameter): name for name, parameter in parameters.items()}
        tensors = {f"weight/{name}": parameter.detach().cpu() for name, parameter in parameters.items()}
        for optimizer in optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    tensors[f"{key}/{names[id(parameter)]}"] = torch.as_tensor(value).detach().cpu()
        replace_file(self._path, save(tensors, {"step": str(step), "run": self._run}))
        self._saved = self._now()

    def load(self, parameters: Mapping[str, torch.Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> int:
        """Put back what was saved.

        Returns:
            The number of steps done; 0 where there is no checkpoint.

        Raises:
            ConfigError: a checkpoint of another run, or a damaged one.
        """
        if not self._path.is_file():
            return 0
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{self._path} is damaged ({error}): delete it to train from the beginning") from error
        if metadata.get("run") != self._run:
            raise ConfigError(f"{self._path} belongs to a run with other settings: repeat them, or name another --out")
        owners = {
            id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
        }
        with torch.no_grad():
            for label, tensor in tensors.items():
                key, _, name = label.partition("/")
                parameter = parameters[name]
                if key == "weight":
                    parameter.copy_(tensor)
                else:
                    # The count of steps stays on the CPU, as torch's optimizers keep it.
                    value = tensor if tensor.ndim == 0 else tensor.to(parameter.device)
                    owners[id(parameter)].state[parameter][key] = value
        return int(metadata["step"])
