from __future__ import annotations

import pytest
import torch

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models import torch_device
from wanspec_p2p.models.torch_device import choose_device, describe_device, torch_dtype
from wanspec_p2p.types import Device, Dtype


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("fast", "expected"), [(True, Dtype.BFLOAT16), (False, Dtype.FLOAT32)])
def test_a_cpu_takes_bfloat16_only_where_it_multiplies_it(
    no_accelerator: None, monkeypatch: pytest.MonkeyPatch, fast: bool, expected: Dtype
) -> None:
    monkeypatch.setattr(torch_device, "cpu_multiplies_bfloat16", lambda: fast)
    choice = choose_device()
    assert (choice.device, choice.dtype) == (Device.CPU, expected)
    assert "neither CUDA nor Metal" in choice.reason and "bfloat16" in choice.reason
    assert choice.threads >= 1


def test_what_is_asked_for_is_taken_and_named_in_the_reason(no_accelerator: None) -> None:
    choice = choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=3)
    assert (choice.device, choice.dtype, choice.threads) == (Device.CPU, Dtype.FLOAT32, 3)
    assert choice.reason == "cpu was asked for; float32 was asked for; 3 threads"


@pytest.mark.parametrize("device", [Device.CUDA, Device.MPS])
def test_a_device_that_is_not_there_is_the_users_to_mend(no_accelerator: None, device: Device) -> None:
    with pytest.raises(ConfigError, match="use cpu"):
        choose_device(device=device)


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads must be 1 or more"):
        choose_device(threads=0)


def test_metal_is_chosen_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    choice = choose_device()
    assert (choice.device, choice.dtype) == (Device.MPS, Dtype.FLOAT32)


def test_cuda_is_chosen_first_and_asked_for_its_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    choice = choose_device()
    assert (choice.device, choice.dtype) == (Device.CUDA, Dtype.FLOAT32)
    assert describe_device(Device.CUDA) == "cuda a GPU"


def test_names_of_number_formats_and_devices() -> None:
    assert torch_dtype(Dtype.BFLOAT16) is torch.bfloat16
    assert torch_dtype(Dtype.FLOAT32) is torch.float32
    assert describe_device(Device.CPU).startswith("cpu ")
