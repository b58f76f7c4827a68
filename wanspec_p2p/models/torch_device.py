"""Where a model runs and in which number format, with the reason in words that `wanspec doctor` prints."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Device, Dtype

__all__ = ["Placement", "choose_device", "describe_device", "torch_dtype"]


@dataclass(frozen=True, slots=True)
class Placement:
    device: Device
    dtype: Dtype
    threads: int
    reason: str


def choose_device(*, device: Device | None = None, dtype: Dtype | None = None, threads: int | None = None) -> Placement:
    """What is asked for, and the fastest that keeps text exact where nothing is asked for.

    Raises:
        ConfigError: a device that is not there, or no thread at all.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be 1 or more, not {threads}")
    chosen, why_device = _device(device)
    number, why_dtype = (dtype, f"{dtype} was asked for") if dtype is not None else _dtype(chosen)
    count = threads or usable_cores()
    return Placement(chosen, number, count, f"{why_device}; {why_dtype}; {count} threads")


def _device(asked: Device | None) -> tuple[Device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked is Device.CUDA and not cuda:
        raise ConfigError(
            "CUDA was asked for, but torch finds no CUDA device: install a CUDA build of torch, or use cpu"
        )
    if asked is Device.MPS and not mps:
        raise ConfigError("MPS was asked for, but this is no Mac with Metal: use cpu")
    if asked is not None:
        return asked, f"{asked} was asked for"
    if cuda:
        return Device.CUDA, f"torch finds {torch.cuda.get_device_name()}"
    if mps:
        return Device.MPS, "torch finds Metal"
    return Device.CPU, "torch finds neither CUDA nor Metal"


def _dtype(device: Device) -> tuple[Dtype, str]:
    if device is Device.CUDA:
        fits = torch.cuda.is_bf16_supported(including_emulation=False)
        return (
            (Dtype.BFLOAT16, "the GPU has bfloat16") if fits else (Dtype.FLOAT32, "the GPU has no bfloat16 of its own")
        )
    if device is Device.MPS:
        return Dtype.FLOAT32, "bfloat16 is slower on Metal"
    if cpu_multiplies_bfloat16():
        return Dtype.BFLOAT16, "the CPU multiplies bfloat16 in hardware"
    return Dtype.FLOAT32, "the CPU has no instructions for bfloat16"


def cpu_multiplies_bfloat16() -> bool:
    if platform.machine().lower() in {"x86_64", "amd64"}:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    mkldnn: Any = torch.backends.mkldnn  # torch ships it without annotations
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable_cores() -> int:
    """Physical cores this process may use: a second thread on a core only gets in the way of matrix products."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def describe_device(device: Device) -> str:
    """What about the hardware can change a logit: the instruction set of a CPU, the model of a GPU."""
    if device is Device.CUDA:
        return f"cuda {torch.cuda.get_device_name()}"
    if device is Device.MPS:
        return f"mps {platform.processor()}"
    features = [torch.backends.cpu.get_cpu_capability()]
    if cpu_multiplies_bfloat16():
        features.append("bf16")
    return f"cpu {platform.machine()} {' '.join(features)}"


def torch_dtype(dtype: Dtype) -> torch.dtype:
    return torch.bfloat16 if dtype is Dtype.BFLOAT16 else torch.float32
