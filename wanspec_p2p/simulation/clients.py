"""How long a token takes with so many clients at one target: by who drafts, and for whom nobody has to choose.

A target whose own drafter goes by its gate stands beside the best fixed number of draft passes, of all that were tried,
found anew for each number of clients (`capacity_play`).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from wanspec_p2p.simulation.capacity_play import TREE_ROWS, Case, Hardware, per_token

__all__ = ["by_clients"]


def by_clients(
    hardware: Hardware,
    clients: Sequence[int],
    *,
    passes: Sequence[int],
    rtt_ms: Sequence[float],
    drafters: Sequence[int],
    tokens: int,
    seed: int,
    played: Callable[[int, int], None],
) -> dict[str, Any]:
    """Milliseconds a token, mean over the clients: lists by number of clients.

    Args:
        passes: draft passes a round to try, each as a chain and as a tree of 1, 2 and 8 rows a session.
        rtt_ms, drafters: of remote drafting, alone and beside the gate; none at all for neither.
        played: told (done, total).
    """
    fixed = {
        **{f"chain of {count}": Case(passes=count) for count in passes},
        **{f"{count} × {rows}": Case(passes=count, rows=rows) for count in passes for rows in TREE_ROWS},
    }
    remote = list(itertools.product(drafters, rtt_ms))
    cases = {
        "plain": Case(),
        "gate": Case(gate=True),
        **fixed,
        **{_name(*far): Case(drafters=far[0], rtt=far[1] / 1000.0) for far in remote},
        **{_name(*far, gate=True): Case(drafters=far[0], rtt=far[1] / 1000.0, gate=True) for far in remote},
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for done, (count, (name, case)) in enumerate(itertools.product(clients, cases.items()), start=1):
        seconds = statistics.mean(per_token(case, hardware, count, tokens=tokens, seed=seed))
        times[name].append(round(seconds * 1000.0, 2))
        played(done, len(clients) * len(cases))
    best = [min(fixed, key=lambda name: times[name][at]) for at in range(len(clients))]
    return {
        "clients": list(clients),
        "plain": times["plain"],
        "fixed": [times[name][at] for at, name in enumerate(best)],
        "fixed_passes": best,
        "gate": times["gate"],
        "remote": {_name(*far): {"alone": times[_name(*far)], "gate": times[_name(*far, gate=True)]} for far in remote},
    }


def _name(drafters: int, rtt_ms: float, *, gate: bool = False) -> str:
    return f"r{drafters} {rtt_ms:.15g} ms{' beside the gate' if gate else ''}"
