"""What is asked of a CPU's libraries before the first product."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wanspec_p2p.models.reproducible import WISHES, ask_for, is_intel


def test_an_intel_cpu_is_asked_and_no_other() -> None:
    environment: dict[str, str] = {}
    ask_for(environment, intel=False)
    assert environment == {}
    ask_for(environment, intel=True)
    assert environment == WISHES


def test_what_the_operator_says_stands() -> None:
    environment = {"MKL_CBWR": "COMPATIBLE"}
    ask_for(environment, intel=True)
    assert environment == {**WISHES, "MKL_CBWR": "COMPATIBLE"}


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "intel"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", "", True),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n", "x86_64", False),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", "aarch64", False),
        (None, "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", True),
        (None, "arm", False),
    ],
)
def test_the_maker_is_read_off_the_machine(tmp_path: Path, cpuinfo: str | None, processor: str, intel: bool) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo, encoding="utf-8")
    assert is_intel(path, processor) is intel


def test_it_is_asked_for_before_the_engine_computes_anything() -> None:
    """In a process of its own: this one has been asked already."""
    script = "import os, wanspec_p2p.models.torch_engine; print(os.environ.get('MKL_CBWR'))"
    environment = {name: value for name, value in os.environ.items() if name not in WISHES}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (WISHES["MKL_CBWR"] if is_intel() else "None")
