"""Meters say what there is to say, and None where there is nothing."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pearl.harness.meters import Energy, Others, PeakMemory

STATUS = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t     {} kB\nVmRSS:\t 10 kB\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for process, held in ((7, 100), (9, 50)):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / "status").write_text(STATUS.format(held))
        (tmp_path / str(process) / "clear_refs").write_text("")
    return tmp_path


def test_memory_is_the_sum_of_the_peaks_of_the_processes(proc: Path) -> None:
    """A process that holds both models counts once."""
    assert PeakMemory([7, 9], proc).bytes() == 150 * 1024
    assert PeakMemory([7, 7], proc).bytes() == 100 * 1024


def test_the_peak_of_before_is_forgotten(proc: Path) -> None:
    PeakMemory([7, 9], proc).reset()

    assert (proc / "7" / "clear_refs").read_text() == "5"
    assert (proc / "9" / "clear_refs").read_text() == "5"


def test_where_the_peak_cannot_be_forgotten_nothing_is_said(proc: Path) -> None:
    memory = PeakMemory([7, 10], proc)

    memory.reset()

    assert memory.bytes() is None


def test_a_process_that_is_gone_has_no_peak(proc: Path) -> None:
    assert PeakMemory([7, 10], proc).bytes() is None
    assert PeakMemory([], proc).bytes() is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_this_very_process_holds_something() -> None:
    memory = PeakMemory([os.getpid()])

    memory.reset()

    assert (memory.bytes() or 0) > 1_000_000


def _zone(folder: Path, name: str, microjoules: int) -> Path:
    zone = folder / name
    zone.mkdir()
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")
    return zone


def test_energy_is_counted_in_whole_zones(tmp_path: Path) -> None:
    package = _zone(tmp_path, "intel-rapl:0", 1_000_000)
    core = _zone(tmp_path, "intel-rapl:0:0", 1_000_000)  # a part of it
    energy = Energy(tmp_path)
    before = energy.read()

    (package / "energy_uj").write_text("3500000")
    (core / "energy_uj").write_text("3000000")

    assert energy.joules(before) == pytest.approx(2.5)


def test_a_counter_that_began_anew_is_counted_on(tmp_path: Path) -> None:
    package = _zone(tmp_path, "intel-rapl:0", 9_000_000)
    energy = Energy(tmp_path)
    before = energy.read()

    (package / "energy_uj").write_text("1000000")

    assert energy.joules(before) == pytest.approx(2.0)


def test_without_counters_there_is_no_energy(tmp_path: Path) -> None:
    energy = Energy(tmp_path)

    assert energy.read() is None
    assert energy.joules(None) is None


class FakeNvml(types.ModuleType):
    """NVIDIA's library, of one GPU."""

    NVMLError = OSError

    def __init__(self, millijoules: int, *, counts: bool = True) -> None:
        super().__init__("pynvml")
        self.millijoules = millijoules
        self.counts = counts

    def __getattr__(self, name: str) -> Any:
        return {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetTotalEnergyConsumption": self._energy,
        }[name]

    def _energy(self, _: int) -> int:
        if not self.counts:
            raise self.NVMLError
        return self.millijoules


def test_gpus_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(1000)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    energy = Energy(tmp_path)
    before = energy.read()

    nvml.millijoules = 4000

    assert energy.joules(before) == pytest.approx(3.0)


def test_a_gpu_that_does_not_count_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(1000, counts=False))

    assert Energy(tmp_path).read() is None


def test_what_this_program_computes_is_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten seconds on two cores everybody used twelve, and this program eight."""
    busy, own, clock = iter([100.0, 112.0]), iter([30.0, 38.0]), iter([5.0, 15.0])
    monkeypatch.setattr("pearl.harness.meters._busy", lambda: next(busy))
    monkeypatch.setattr("pearl.harness.meters._own", lambda: next(own))
    monkeypatch.setattr("pearl.harness.meters.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)

    with Others() as others:
        pass

    assert others.share == pytest.approx(0.2)
