"""How many clients one target serves at a stated time per token: drafted for remotely, drafting for itself, or plainly.

Found by doubling and bisection over whole plays (`capacity_play`), for remote drafters at each distance and for each
baseline at its best: a chain and a tree at the target, every number of passes, and of rows in each. And for a target
whose own drafter goes by its gate, alone and beside remote ones: nobody has to choose anything there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from wanspec_p2p.simulation.capacity_play import TREE_ROWS, Case, Hardware, per_token

__all__ = ["capacity", "closed_form", "study"]

SHARE = 0.95
"""Of the answers that must be fast enough."""
_Found: TypeAlias = Callable[[Case, int], int]


def closed_form(passes: int, hardware: Hardware) -> float:
    """How many times the clients a target serves once its draft passes are run elsewhere ("Speculation at a Distance",
    arXiv 2606.25091, proposition 9: as many tokens a round, rows at no cost)."""
    return 1.0 + passes * hardware.draft / hardware.verify


def capacity(
    case: Case, hardware: Hardware, *, limit: float, tokens: int, seed: int, guess: int, played: Callable[[], None]
) -> int:
    """The most clients whose answers take up to `limit` seconds a token, 95 of 100 of them; to 4 %.

    Of those held to a number of tokens a round their mean does: the closed form they stand beside knows no luck.

    Args:
        guess: where the search begins, in steps that double until there is something to bisect.
        played: told after each play.
    """
    fits, fails, at, step = 0, 0, guess, max(1, guess // 25)
    while fails != 1 and (not fails or fails - fits > max(1, fits // 25)):
        times = sorted(per_token(case, hardware, at, tokens=tokens, seed=seed))
        played()
        counts = times[math.ceil(SHARE * len(times)) - 1] if case.held is None else sum(times) / len(times)
        if counts <= limit + 1e-9:
            fits = at
        else:
            fails = at
        if not fails:
            at = fits + step
        elif fits or fails <= step:
            at = max(1, (fits + fails) // 2)
        else:
            at = fails - step
        step *= 2
    return fits


def study(
    hardware: Hardware,
    *,
    limit: float,
    rtt_ms: Sequence[float],
    drafters: Sequence[int],
    passes: Sequence[int],
    held: Sequence[int] = (),
    tokens: int,
    seed: int,
    played: Callable[[], None],
) -> dict[str, Any]:
    """Clients of one target by who drafts: lists by distance for "r1", "r2", …, and what they are beside it.

    Args:
        passes: draft passes a round to try for each baseline; the one that serves most clients counts.
        held: for each of these numbers, a chain of so many tokens a round beside remote drafts of as many.
    """

    def found(case: Case, guess: int) -> int:
        return capacity(case, hardware, limit=limit, tokens=tokens, seed=seed, guess=max(1, guess), played=played)

    plain = found(Case(), int(hardware.verify_rows * limit / hardware.verify))
    start = plain or hardware.verify_rows // 2
    chain, trees = _chain(found, passes, start), _trees(found, passes, start)
    tree = {count: max(own.values()) for count, own in trees.items()}
    baselines = {"chain": chain, "tree": tree}
    best_alone = max(*chain.values(), *tree.values())
    remote = _remote(found, rtt_ms, drafters, plain or best_alone)
    against = {}
    for kind, own in baselines.items():
        best = max(own, key=lambda count: own[count])
        against[kind] = {
            "passes": best,
            "clients": own[best],
            "closed_form": round(closed_form(best, hardware), 3),
            "ratio": _ratios(remote, own[best]),
        }
    return {
        **{"rtt_ms": list(rtt_ms), "clients": remote, "plain": plain, "against": against},
        "baselines": {kind: {str(count): n for count, n in own.items()} for kind, own in baselines.items()},
        "tree_rows": {str(count): {str(rows): n for rows, n in own.items()} for count, own in trees.items()},
        "gate": {
            "clients": found(Case(gate=True), max(best_alone, plain)),
            "remote": _remote(found, rtt_ms, drafters, plain or best_alone, gate=True),
        },
        "closed_form": {str(count): round(closed_form(count, hardware), 3) for count in passes},
        "held": {str(count): _held(found, count, hardware, rtt_ms, drafters, start) for count in held},
    }


def _chain(found: _Found, passes: Sequence[int], guess: int, *, held: bool = False) -> dict[int, int]:
    """Clients by draft passes."""
    own: dict[int, int] = {}
    for count in passes:
        own[count] = guess = found(Case(passes=count, held=count if held else None), guess)
    return own


def _trees(found: _Found, passes: Sequence[int], guess: int) -> dict[int, dict[int, int]]:
    """Clients by draft passes, and by rows of each of them."""
    own: dict[int, dict[int, int]] = {}
    for count in passes:
        own[count] = {}
        for rows in TREE_ROWS:
            own[count][rows] = guess = found(Case(passes=count, rows=rows), guess)
        guess = max(own[count].values())
    return own


def _remote(
    found: _Found,
    rtt_ms: Sequence[float],
    drafters: Sequence[int],
    start: int,
    *,
    held: int | None = None,
    gate: bool = False,
) -> dict[str, list[int]]:
    """Clients by drafters, and by distance."""
    clients: dict[str, list[int]] = {}
    for r in drafters:
        guess, clients[f"r{r}"] = start, []
        for rtt in rtt_ms:
            guess = found(Case(drafters=r, rtt=rtt / 1000.0, held=held, gate=gate), guess)
            clients[f"r{r}"].append(guess)
    return clients


def _held(
    found: _Found, count: int, hardware: Hardware, rtt_ms: Sequence[float], drafters: Sequence[int], guess: int
) -> dict[str, Any]:
    """Both sides with `count` drafted tokens a round, as the closed form has it."""
    chain, form = _chain(found, (count,), guess, held=True)[count], closed_form(count, hardware)
    remote = _remote(found, rtt_ms, drafters, int(chain * form) or guess, held=count)
    return {"chain": chain, "clients": remote, "ratio": _ratios(remote, chain), "closed_form": round(form, 3)}


def _ratios(remote: dict[str, list[int]], base: int) -> dict[str, list[float | None]]:
    return {name: [round(n / base, 3) if base else None for n in clients] for name, clients in remote.items()}
