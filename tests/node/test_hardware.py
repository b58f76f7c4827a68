from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from node import hardware
from wanspec_p2p.protocol.limits import MAX_NAME


def test_this_machine_has_cores_and_memory() -> None:
    found = hardware.inspect()
    assert found.cores >= 1
    assert 0 < found.available_bytes <= found.memory_bytes
    assert f"{found.cores} cores" in found.summary()


def test_a_machine_that_does_not_answer_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise psutil.Error("no /proc")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    monkeypatch.setattr(psutil, "Process", fail)
    found = hardware.inspect()
    assert (found.memory_bytes, found.available_bytes) == (0, 0)
    assert found.cores >= 1


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True, answers: bool = True) -> None:
        self._driver, self._answers = driver, answers
        self.shut_down = False

    def nvmlInit(self) -> None:
        if not self._driver:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        if not self._answers:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(total=24 << 30, free=20 << 30)

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "RTX 4090"

    def nvmlShutdown(self) -> None:
        self.shut_down = True


def test_gpus_are_described_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = hardware.inspect()
    assert found.gpus == (hardware.Gpu("RTX 4090", 24 << 30, 20 << 30),)
    assert "RTX 4090 (24 GiB)" in found.summary()
    assert nvml.shut_down


@pytest.mark.parametrize(
    ("nvml", "note"),
    [
        (None, "wanspec-p2p[node]"),  # None in sys.modules: not installed
        (FakeNvml(driver=False), "no NVIDIA driver: driver not loaded"),
        (FakeNvml(answers=False), "did not answer: GPU is lost"),
    ],
)
def test_without_an_answer_there_are_no_gpus_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None, note: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = hardware.inspect()
    assert found.gpus == ()
    assert note in found.gpu_note
    assert "no GPU seen" in found.summary()


@pytest.mark.parametrize(("host", "name"), [("lab-a.example.org", "lab-a"), ("", "node"), ("x" * 200, "x" * MAX_NAME)])
def test_a_node_is_called_after_its_host(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert hardware.default_name() == name
