"""Throw hostile frames at every codec, the handshake, and a whole coordinator, target and node.

python -m tests.fuzz --inputs 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import psutil

from tests.fuzz.run import KINDS, Find, chunk

MEGABYTE = 1 << 20
_CHEAP = {"codecs": 20, "handshake": 10}
"""A codec takes so many frames in the time in which a whole network takes one."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="in all; the kinds share them by --weight")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this one; may be given again")
    parser.add_argument("--size", type=int, default=500, help="inputs of a chunk; each has a world of its own")
    parser.add_argument("--first", type=int, default=0, help="number of the first chunk")
    parser.add_argument("--chunks", type=int, help="chunks of each kind, instead of --inputs")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop then, whatever is left")
    chosen = parser.parse_args(arguments)
    kinds = chosen.kind or list(KINDS)
    process, begun = psutil.Process(), time.monotonic()
    done: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    memory: list[int] = []
    number, most = chosen.first, None if chosen.chunks is None else chosen.first + chosen.chunks
    while (number < most) if most is not None else (done.total() < chosen.inputs):
        if time.monotonic() - begun > chosen.minutes * 60:
            break
        for kind in kinds:
            since = time.monotonic()
            size = chosen.size * (_CHEAP.get(kind, 1) if most is None else 1)
            try:
                outcome = chunk(kind, chosen.seed, number, size)
            except Find as find:
                print(f"{kind}: {find}", file=sys.stderr)  # noqa: T201  # this is a command
                return 1
            done[kind] += outcome.inputs
            seconds[kind] += time.monotonic() - since
            answers[kind].update(outcome.answers)
        memory.append(process.memory_info().rss)
        number += 1
    for kind in kinds:
        said = ", ".join(f"{what} {count}" for what, count in answers[kind].most_common())
        print(f"{kind}: {done[kind]} inputs in {seconds[kind]:.0f} s; {said}")  # noqa: T201
    early = memory[len(memory) // 5]
    growth = (memory[-1] - early) / MEGABYTE
    print(  # noqa: T201
        f"{done.total()} inputs, seed {chosen.seed}, {time.monotonic() - begun:.0f} s; "
        f"memory {memory[-1] / MEGABYTE:.0f} MiB, {growth:+.1f} MiB since a fifth of the way"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
