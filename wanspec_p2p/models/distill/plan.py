"""What is asked of a distillation, whether the same was asked here before, and whether this machine has room for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import psutil

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.models.distill.torch_training import Schedule
from wanspec_p2p.types import Device

__all__ = ["BUDGETS", "Plan", "check_plan", "check_room", "store_plan", "training_bytes"]

BUDGETS = {Device.CPU: (1_000_000, 6.0), Device.MPS: (4_000_000, 8.0), Device.CUDA: (20_000_000, 10.0)}
"""Tokens the target writes, and passes over them, where nothing is asked for."""
DISK_PER_TOKEN = 260
"""Bytes a written token takes, prompts and labels included."""
MEMORY_PER_TOKEN = 320
BYTES_PER_ACTIVATION = 600
"""Of a training step on a CPU, for each token, layer and hidden unit: 6.8 GB were seen in all with SmolLM2, 4 layers,
and batches of 4,096 tokens."""
PLAN_FILE = "plan.json"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the drafter, besides the target and the machine."""

    layers: tuple[int, ...]  # of the target, in order
    tokens: int  # that the target writes
    schedule: Schedule
    seed: int = 0
    width: int | None = None  # of each MLP; None: the target's
    start: str | None = None  # a drafter to go on from, instead of the target's own layers

    @property
    def name(self) -> str:
        """A folder's name for drafters of this shape."""
        told = f"layers-{'-'.join(map(str, self.layers))}"
        return told if self.width is None else f"{told}-width-{self.width}"


def store_plan(folder: Path, plan: Plan) -> None:
    """Raises:
    ConfigError: the disk is full, or not to be written to.
    """
    replace_file(folder / PLAN_FILE, msgspec.json.format(msgspec.json.encode(plan)))


def check_plan(folder: Path, checkpoint: Path, plan: Plan) -> None:
    """Refuse to go on with what another plan began.

    Args:
        folder: of drafters of this shape.
        checkpoint: without it nothing is there to be mixed up.

    Raises:
        ConfigError: it was begun with other settings; the message names them.
    """
    if not checkpoint.is_file() or not (folder / PLAN_FILE).is_file():
        return
    try:
        found = msgspec.json.decode((folder / PLAN_FILE).read_bytes(), type=Plan)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder / PLAN_FILE} is damaged ({error}): delete {folder} to train it anew") from error
    before, now = _said(found), _said(plan)
    other = [f"{flag} {before[flag]} (now {now[flag]})" for flag in now if before[flag] != now[flag]]
    if other:
        raise ConfigError(
            f"{folder} was begun with {', '.join(other)}: repeat that, or delete the folder to train it anew"
        )


def _said(plan: Plan) -> dict[str, object]:
    """What each flag said."""
    schedule = plan.schedule
    return {
        "--layers": ",".join(map(str, plan.layers)),
        "--width": plan.width or "same",
        "--tokens": plan.tokens,
        "--epochs": schedule.epochs,
        "--batch": schedule.batch_tokens,
        "--peak": schedule.peak,
        "--seed": plan.seed,
        "--start": plan.start,
    }


def training_bytes(plan: Plan, *, hidden: int) -> int:
    """Main memory that a training step on a CPU takes, about.

    Args:
        hidden: width of the target's hidden states.
    """
    return BYTES_PER_ACTIVATION * plan.schedule.batch_tokens * len(plan.layers) * hidden


def check_room(out: Path, *, tokens: int, written: int, weights: int, caches: int) -> None:
    """Refuse now what would fail in an hour.

    Args:
        tokens: that the corpus will hold; `written` of them are there.
        weights: bytes of the target's weights in float32.
        caches: bytes of main memory the target's caches take while it writes, or a training step, whichever is more.

    Raises:
        ConfigError: disk or memory will not do.
    """
    place = out.absolute()
    while not place.exists():
        place = place.parent
    disk = (tokens - min(tokens, written)) * DISK_PER_TOKEN + 2 * weights
    if (free := shutil.disk_usage(place).free) < disk:
        raise ConfigError(
            f"{out} needs about {disk / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: make room, name another --out, "
            "or ask for fewer --tokens"
        )
    memory = tokens * MEMORY_PER_TOKEN + 2 * weights + caches
    if (available := psutil.virtual_memory().available) < memory:
        raise ConfigError(
            f"distilling needs about {memory / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are available: end "
            "other programs, or ask for fewer --tokens"
        )
