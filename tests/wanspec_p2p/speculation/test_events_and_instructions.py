"""What goes in and what comes out are closed sets of values that cannot change."""

from __future__ import annotations

import dataclasses
import inspect
from types import ModuleType
from typing import get_args

import pytest

from wanspec_p2p.speculation import events, instructions

UNIONS = {
    events: (events.TargetEvent, events.DrafterEvent),
    instructions: (instructions.TargetInstruction, instructions.DrafterInstruction),
}
PARTS = {events.Outlook, events.Window, instructions.Committed, instructions.TokenScores}
"""Values inside an event or an instruction."""


def classes(module: ModuleType) -> set[type]:
    exported = (getattr(module, name) for name in module.__all__)
    return {thing for thing in exported if inspect.isclass(thing)}


@pytest.mark.parametrize("module", UNIONS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_class_is_in_a_union_frozen_and_exported(module: ModuleType) -> None:
    members = {kind for union in UNIONS[module] for kind in get_args(union)}
    assert classes(module) - PARTS == members
    for kind in classes(module):
        assert vars(kind)["__dataclass_params__"].frozen, kind
        assert "__slots__" in vars(kind), kind


def test_every_event_says_when_it_happened() -> None:
    for union in UNIONS[events]:
        for kind in get_args(union):
            assert "at" in {field.name for field in dataclasses.fields(kind)}
