"""What this machine is: facts for the log, for `wanspec doctor` and for a node's default name. Asking never fails."""

from __future__ import annotations

import importlib
import platform
import socket
from dataclasses import dataclass
from typing import Any

import psutil

from wanspec_p2p.protocol import limits

__all__ = ["Gpu", "Hardware", "default_name", "inspect"]


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """Facts; a count or a size that cannot be found out is 0."""

    system: str  # e.g. "Linux 6.1 x86_64"
    cores: int  # this process may use
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...]
    gpu_note: str  # how the GPUs were looked for, or why none could be

    def summary(self) -> str:
        """One line for people."""
        gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in self.gpus) or "no GPU seen"
        return f"{self.system}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB memory, {gpus}"


def inspect() -> Hardware:
    memory, available = _memory()
    gpus, note = _nvidia_gpus()
    return Hardware(
        system=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        cores=_cores(),
        memory_bytes=memory,
        available_bytes=available,
        gpus=gpus,
        gpu_note=note,
    )


def default_name() -> str:
    """The host name without its domain, within the limit of a name; "node" where there is none."""
    return socket.gethostname().split(".", 1)[0][: limits.MAX_NAME] or "node"


def _cores() -> int:
    try:
        # The affinity mask, not the machine: a container or a batch system often allows fewer.
        return len(psutil.Process().cpu_affinity())
    except (AttributeError, psutil.Error, OSError):  # no affinity on macOS
        return psutil.cpu_count() or 0


def _memory() -> tuple[int, int]:
    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError):
        return 0, 0
    return int(memory.total), int(memory.available)


def _nvidia_gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return (), "nvidia-ml-py is not installed; wanspec-p2p[node] brings it"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), f"no NVIDIA driver: {error}"
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(Gpu(str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free)))
        return tuple(found), "NVIDIA driver"
    except nvml.NVMLError as error:
        return (), f"the NVIDIA driver did not answer: {error}"
    finally:
        nvml.nvmlShutdown()
