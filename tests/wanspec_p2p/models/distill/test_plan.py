from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.plan import BUDGETS, Plan, check_plan, check_room, store_plan, training_bytes
from wanspec_p2p.models.distill.torch_training import Schedule
from wanspec_p2p.types import Device

PLAN = Plan(layers=(0, 1, 28, 29), tokens=1000, schedule=Schedule())
Usage = namedtuple("Usage", "total used free")


def test_folders_are_named_after_the_shape() -> None:
    assert PLAN.name == "layers-0-1-28-29"
    assert msgspec.structs.replace(PLAN, width=512).name == "layers-0-1-28-29-width-512"


def test_every_device_has_a_budget() -> None:
    assert set(BUDGETS) == set(Device)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    store_plan(tmp_path, PLAN)
    (tmp_path / "checkpoint").write_bytes(b"")
    return tmp_path / "checkpoint"


def test_the_same_plan_goes_on(tmp_path: Path, checkpoint: Path) -> None:
    check_plan(tmp_path, checkpoint, PLAN)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"tokens": 2000}, "--tokens 1000 .now 2000.: repeat that"),
        ({"schedule": Schedule(epochs=2, peak=0.1)}, r"--epochs 6\.0 .now 2\.?0?., --peak 0\.002 .now 0\.1.: repeat"),
        ({"schedule": Schedule(batch_tokens=2048)}, "--batch 4096 .now 2048."),
        ({"start": "elsewhere", "seed": 3}, "--seed 0 .now 3., --start None .now elsewhere."),
    ],
)
def test_another_plan_is_refused_with_what_differs(
    tmp_path: Path, checkpoint: Path, other: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"was begun with {said}"):
        check_plan(tmp_path, checkpoint, msgspec.structs.replace(PLAN, **other))


def test_without_a_checkpoint_there_is_nothing_to_mix_up(tmp_path: Path, checkpoint: Path) -> None:
    checkpoint.unlink()
    check_plan(tmp_path, checkpoint, msgspec.structs.replace(PLAN, tokens=1))


def test_a_damaged_plan_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json is damaged"):
        check_plan(tmp_path, checkpoint, PLAN)


def room(monkeypatch: pytest.MonkeyPatch, *, disk: float, memory: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, int(disk)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(memory)))


def check(out: Path, *, tokens: int = 10_000_000, written: int = 0) -> None:
    check_room(out, tokens=tokens, written=written, weights=500_000_000, caches=2_000_000_000)


def test_enough_room_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room(monkeypatch, disk=3.6e9, memory=6.2e9)
    check(tmp_path / "not" / "yet" / "there")


def test_too_small_a_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room(monkeypatch, disk=3.5e9, memory=1e12)
    with pytest.raises(ConfigError, match=r"needs about 3\.6 GB and 3\.5 GB are free: make room, name another --out"):
        check(tmp_path)
    check(tmp_path, written=1_000_000)  # what is there already needs no room


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room(monkeypatch, disk=1e12, memory=6.1e9)
    with pytest.raises(ConfigError, match=r"needs about 6\.2 GB of memory and 6\.1 GB are available: end other"):
        check(tmp_path)
    check(tmp_path, tokens=1_000_000)


def test_a_training_step_is_counted_by_what_it_holds() -> None:
    plan = Plan(layers=(0, 1, 28, 29), tokens=1, schedule=Schedule(batch_tokens=4096))
    assert training_bytes(plan, hidden=576) == 600 * 4096 * 4 * 576
    assert 5e9 < training_bytes(plan, hidden=576) < 7e9  # what was seen on two cores
