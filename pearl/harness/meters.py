"""What a machine says while something runs on it: memory, energy, and who else computes.

A meter that this machine does not have says None, and the figure is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self, final

PROC: Final = pathlib.Path("/proc")
POWERCAP: Final = pathlib.Path("/sys/class/powercap")
BUSY: Final = 0.03  # of the machine in other hands: times are not the program's own any more
FORGET_THE_PEAK: Final = "5"  # what clear_refs does with it: see proc(5)


@final
class PeakMemory:
    """The most memory that processes hold at a time, each from the last `reset` on (Linux).

    Of a GPU's memory it knows nothing.
    """

    def __init__(self, processes: Iterable[int], proc: pathlib.Path = PROC) -> None:
        self._folders = [proc / str(process) for process in sorted(set(processes))]

    def reset(self) -> None:
        """Forget what was held before; where that is not allowed, nothing is said later."""
        try:
            for folder in self._folders:
                (folder / "clear_refs").write_text(FORGET_THE_PEAK)
        except OSError:
            self._folders = []

    def bytes(self) -> int | None:
        """The sum over the processes; None where it cannot be read."""
        try:
            found = [_peak(folder) for folder in self._folders]
        except (OSError, StopIteration):
            return None
        return sum(found) or None


def _peak(folder: pathlib.Path) -> int:
    lines = (folder / "status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


@final
class Energy:
    """Joules that the processors (RAPL) and the GPUs (NVML) have taken, from counters."""

    def __init__(self, powercap: pathlib.Path = POWERCAP) -> None:
        # Zones of zones, intel-rapl:0:0, are part of theirs.
        zones = [zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1]
        self._zones = [zone for zone in zones if _microjoules(zone / "energy_uj") is not None]
        self._nvml, self._gpus = _gpus()

    def read(self) -> dict[str, float] | None:
        """The counters now; None where there are none."""
        found = {}
        for zone in self._zones:
            if (count := _microjoules(zone / "energy_uj")) is not None:
                found[str(zone)] = count / 1e6
        for number, gpu in enumerate(self._gpus):
            millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
            found[f"gpu {number}"] = millijoules / 1e3
        return found or None

    def joules(self, before: dict[str, float] | None) -> float | None:
        """Taken since that reading; a counter that began anew is counted from its end."""
        now = self.read()
        if not before or not now or before.keys() != now.keys():
            return None
        taken = 0.0
        for name, count in now.items():
            since = count - before[name]
            if since < 0:
                since += (_microjoules(pathlib.Path(name) / "max_energy_range_uj") or 0) / 1e6
            taken += since
        return taken


def _microjoules(file: pathlib.Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _gpus() -> tuple[Any, list[Any]]:
    """NVIDIA's library and its GPUs that count energy; none where it is not installed."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None, []
    try:
        nvml.nvmlInit()
        gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        for gpu in gpus:
            nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except nvml.NVMLError:
        return None, []
    return nvml, gpus


@final
class Others:
    """The share of all cores that processes outside this program used in a `with` block."""

    share = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._wall, self._busy, self._own = time.monotonic(), _busy(), _own()
        return self

    def __exit__(self, *exc: object) -> None:
        """End."""
        import psutil

        seconds = (time.monotonic() - self._wall) * psutil.cpu_count()
        self.share = max(0.0, (_busy() - self._busy) - (_own() - self._own)) / seconds


def _busy() -> float:
    """CPU seconds of everybody."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _own() -> float:
    """CPU seconds of this process and all it started."""
    return sum(_seconds_of_the_family())


def _seconds_of_the_family() -> Iterator[float]:
    import psutil

    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            yield float(times.user + times.system)
