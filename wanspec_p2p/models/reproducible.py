"""Products whose rows do not depend on how many others there are: what a CPU's libraries must be asked for.

On Intel's processors oneDNN multiplies bfloat16 by tiles (AMX), and MKL picks float32 kernels by shape and alignment;
both add the terms of a row in another order for another number of rows, so that a tree's rows would not be those of
plain decoding bit for bit. Both libraries read their wishes from the environment, once, when the first product is
computed: `ONEDNN_MAX_CPU_ISA` (oneDNN, "CPU dispatcher control") and `MKL_CBWR` (oneMKL, "conditional numerical
reproducibility": STRICT makes results independent of alignment and, as we found, of shape). The engine's self-test says
whether it was enough.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["WISHES", "ask_for", "is_intel"]

WISHES = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_CBWR": "AUTO,STRICT"}
CPUINFO = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"


def ask_for(environment: MutableMapping[str, str], *, intel: bool) -> None:
    """Say in this process's environment what is wished, where nobody else has. Other CPUs need nothing."""
    if intel:
        for name, value in WISHES.items():
            environment.setdefault(name, value)


def is_intel(cpuinfo: Path = CPUINFO, processor: str | None = None) -> bool:
    """Of this machine; Windows names the maker in the environment, Linux in a file of its own.

    `platform.processor` would start a program to find out, at every start of ours.
    """
    named = os.environ.get("PROCESSOR_IDENTIFIER", "") if processor is None else processor
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            named += next((line for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        pass
    return INTEL in named
