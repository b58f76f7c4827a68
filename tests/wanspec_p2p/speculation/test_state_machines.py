"""docs/reference/state-machines.md says what the two sessions do, drawn from their tables and from watching them.

The tables hold what is legal and who handles it. Where each event leads is found by walking the sessions at random,
which also shows that every pair of the tables can come about. To write the page anew:

    python -m tests.wanspec_p2p.speculation.test_state_machines
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import TextWrapper
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from tests.support.session_rows import prefix_hash
from wanspec_p2p.speculation.drafter_session import DRAFTER_TRANSITIONS, DrafterSession, DrafterSpec, DrafterState
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    Drafted,
    DrafterEvent,
    DrafterJoined,
    DrafterLeft,
    FlushDue,
    LocalDrafted,
    LocalFailed,
    ModelFailed,
    ModelFree,
    PauseOver,
    SessionClosed,
    Started,
    TargetEvent,
    VerdictAnnounced,
    VerdictArrived,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import RunLocalPass, RunPass
from wanspec_p2p.speculation.local import Reach
from wanspec_p2p.speculation.target_session import TRANSITIONS, SessionSpec, TargetSession, TargetState
from wanspec_p2p.types import PeerId, Sampling, SessionId

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "state-machines.md"
SESSION = SessionId("s")
VOCABULARY = 5
PEER = PeerId("a")
AT = 0.0
ENDS = (Cancelled, ModelFailed, SessionClosed)
"""Seldom chosen, or few walks would come far."""
fill = TextWrapper(width=120, break_long_words=False, break_on_hyphens=False).fill

Table: TypeAlias = Mapping[tuple[Any, type], Callable[..., Any]]
Leads: TypeAlias = dict[tuple[enum.Enum, type], set[enum.Enum]]


def target_session(draw: random.Random) -> TargetSession:
    spec = SessionSpec(SESSION, (1, 2), bytes(16), Sampling(), VOCABULARY, 3, stop_tokens=(0,))
    return TargetSession(spec, local=Reach(64, 256) if draw.random() < 0.5 else None)


def target_event(kind: type[TargetEvent], session: TargetSession, rows: int, draw: random.Random) -> TargetEvent:
    base = session.tree.place(-1)
    events: dict[type[TargetEvent], Callable[[], TargetEvent]] = {
        Started: lambda: Started(AT),
        ModelFree: lambda: ModelFree(AT, drafting=bool(session.wish(AT).places) and draw.random() < 0.5),
        ModelFailed: lambda: ModelFailed("", AT),
        DrafterJoined: lambda: DrafterJoined(PEER, 0, AT),
        DrafterLeft: lambda: DrafterLeft(PEER, AT),
        DraftArrived: lambda: DraftArrived(PEER, *base, (draw.randrange(VOCABULARY),), (), (), AT),
        Verified: lambda: Verified([random_row(draw) for _ in range(rows)], AT),
        LocalDrafted: lambda: LocalDrafted([random_row(draw) for _ in range(rows)], AT),
        LocalFailed: lambda: LocalFailed("", AT),
        Cancelled: lambda: Cancelled(AT),
    }
    return events[kind]()


def drafter_session(draw: random.Random) -> DrafterSession:
    window = Window(draw.randrange(3), 3)
    prefix = (1, draw.choice([2, 2, 2, VOCABULARY]))
    return DrafterSession(
        DrafterSpec(SESSION, "c", prefix, 2, bytes(16), Sampling(), VOCABULARY, (0,), window, context=9)
    )


def drafter_event(kind: type[DrafterEvent], session: DrafterSession, rows: int, draw: random.Random) -> DrafterEvent:
    committed = (*session.tree.committed, draw.randrange(VOCABULARY))
    fits = prefix_hash(SESSION, committed) if draw.randrange(4) else bytes(8)
    at = float(session.tree.committed_len)  # a verdict a second
    events: dict[type[DrafterEvent], Callable[[], DrafterEvent]] = {
        Started: lambda: Started(at),
        ModelFree: lambda: ModelFree(at),
        ModelFailed: lambda: ModelFailed("", at),
        Drafted: lambda: Drafted([random_row(draw) for _ in range(rows)], at),
        VerdictAnnounced: lambda: VerdictAnnounced(draw.random(), at),
        VerdictArrived: lambda: VerdictArrived(len(committed), committed[-1:], fits, Window(draw.randrange(3), 3), at),
        FlushDue: lambda: FlushDue(at),
        PauseOver: lambda: PauseOver(at),
        SessionClosed: lambda: SessionClosed(at),
    }
    return events[kind]()


def random_row(draw: random.Random) -> np.ndarray:
    return np.array([draw.randrange(3) for _ in range(VOCABULARY)], dtype=np.float32)


class Machine(NamedTuple):
    title: str
    what: str
    table: Table
    states: type[enum.Enum]
    session: Callable[[random.Random], Any]
    event: Callable[[Any, Any, int, random.Random], Any]


MACHINES = [
    Machine(
        "The target's session",
        "`wanspec_p2p.speculation.target_session.TargetSession`: one generation at the target. WAITING and VERIFYING "
        "alternate, a round each, whether drafts arrive or not; DRAFTING is a pass of the target's own drafter before "
        "it, where it has one and that pays.",
        TRANSITIONS,
        TargetState,
        target_session,
        target_event,
    ),
    Machine(
        "The drafter's session",
        "`wanspec_p2p.speculation.drafter_session.DrafterSession`: the same generation at a node. WAITING and DRAFTING "
        "alternate while there is credit; PAUSING waits a moment for a verdict that is due, IDLE until one comes.",
        DRAFTER_TRANSITIONS,
        DrafterState,
        drafter_session,
        drafter_event,
    ),
]


def observe(machine: Machine) -> Leads:
    """Where each legal pair leads, from 6,000 random walks (seeded, so always the same)."""
    draw = random.Random(0)
    leads: Leads = {}
    for _ in range(6000):
        session = machine.session(draw)
        rows = 0  # of the pass that runs
        for _ in range(25):
            before = session.state
            kinds = [event for state, event in machine.table if state is before]
            [kind] = draw.choices(kinds, [1 if kind in ENDS else 8 for kind in kinds])
            for instruction in session.handle(machine.event(kind, session, rows, draw)):
                if isinstance(instruction, RunPass | RunLocalPass):
                    rows = instruction.segment.rows
            leads.setdefault((before, kind), set()).add(session.state)
    return leads


def render(machine: Machine, leads: Leads) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    rows = []
    for (state, event), handler in machine.table.items():
        after = [end.name for end in machine.states if end in leads[state, event]]
        rows.append(f"| {state.name} | `{event.__name__}` | `{handler.__name__}` | {', '.join(after)} |")
        for end in after:
            arrows.setdefault((state.name, end), []).append(event.__name__)
    first, *_, last = machine.states
    diagram = [
        f"    [*] --> {first.name}",
        *(
            f"    {begin} --> {end}: {', '.join(events)}"
            for (begin, end), events in arrows.items()
            if begin != last.name
        ),
        f"    {last.name} --> [*]",
    ]
    return "\n".join(
        [
            f"## {machine.title}",
            "",
            fill(machine.what),
            "",
            "```mermaid",
            "stateDiagram-v2",
            *diagram,
            "```",
            "",
            "| state | event | handled by | leads to |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def page() -> str:
    parts = [
        "# State machines",
        "<!-- Written by `python -m tests.wanspec_p2p.speculation.test_state_machines`; edits are lost. -->",
        fill(
            "Every change of a session's state goes through `handle(event) -> list[Instruction]`. What may happen in "
            "which state is a table, and the diagrams below are drawn from those tables. Any other pair raises "
            "`LocalProtocolError`: a bug of ours, never a peer's doing. In the last state of each, whatever was still "
            "under way is ignored."
        ),
        *(render(machine, observe(machine)) for machine in MACHINES),
    ]
    return "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.title)
def test_every_legal_pair_can_come_about(machine: Machine) -> None:
    assert set(observe(machine)) == set(machine.table)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python -m tests.wanspec_p2p.speculation.test_state_machines"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
