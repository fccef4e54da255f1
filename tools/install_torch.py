"""Install the pinned torch into the running environment, without CUDA where no GPU would use it.

On Linux the plain PyPI wheel of torch brings several gigabytes of CUDA libraries. A machine without
a GPU is better off with the CPU build, which lives on an index of its own that not every network
can reach. In this order, and never waiting long for an index that does not answer:

1. a GPU is present                          what pip gives
2. pip would install no CUDA libraries       what pip gives (macOS, Windows, a mirror of CPU builds)
3. the index of CPU builds has the version   the CPU build
4. otherwise                                 what pip gives: large, and it works

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)([-_]|$)", re.IGNORECASE)
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def pinned(name: str, constraints: str) -> str:
    """The requirement that `constraints` holds for `name`, for example "torch==2.13.0"."""
    for line in constraints.splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement.partition("==")[0] == name:
            return requirement
    raise SystemExit(f"constraints.txt has no line for {name}; expected one like {name}==1.2.3")


def brings_cuda(packages: Iterable[str]) -> bool:
    """Whether an installation of `packages` includes libraries that only a GPU can use."""
    return any(CUDA_PACKAGE.match(package) for package in packages)


def installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    found = _succeeds(
        sys.executable, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"
    )
    # The build ("+cpu", "+cu130") is the machine's business; the version is ours.
    return found is not None and found.strip().partition("+")[0] == version


def has_gpu() -> bool:
    return _succeeds("nvidia-smi", "--list-gpus") is not None


def resolved(requirement: str) -> list[str]:
    """Names of what pip would install for `requirement`; empty when it cannot say."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ("--dry-run", "--ignore-installed", "--quiet", "--report", str(report))
        if _succeeds(*PIP, "install", *options, requirement, seconds=300) is None:
            return []
        return [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]


def cpu_index_has(requirement: str) -> bool:
    """Whether the index of CPU builds answers at once and lists the version."""
    options = ("--index-url", CPU_INDEX, "--timeout", "5", "--retries", "0")
    listing = _succeeds(*PIP, "index", "versions", *options, "torch", seconds=30)
    return listing is not None and requirement.partition("==")[2] in re.split(r"[\s,()+]+", listing)


def main() -> None:
    requirement = pinned("torch", CONSTRAINTS.read_text())
    if installed(requirement):
        return
    options: tuple[str, ...] = ()
    if not has_gpu() and brings_cuda(resolved(requirement)) and cpu_index_has(requirement):
        # Torch alone: what it depends on comes with everything else, from the usual index.
        options = ("--index-url", CPU_INDEX, "--no-deps")
    print(f"installing {requirement}", *options, flush=True)
    command = [*PIP, "install", "--quiet", "--constraint", str(CONSTRAINTS), *options, requirement]
    sys.exit(subprocess.run(command, check=False).returncode)


def _succeeds(*command: str, seconds: float = 10) -> str | None:
    """The standard output of `command`, or None when it is missing, fails or takes too long."""
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=seconds
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main()
